//! How many signals a user may have queued (RLIMIT_SIGPENDING, counted per real user id as getrlimit(2) says).

use std::sync::Arc;

use hashbrown::HashMap;
use sync::Mutex;

use super::queue::Room;
use crate::lock::SIGNAL_QUOTA;

/// Queued signals by user.
#[derive(Clone)]
pub(crate) struct SignalQuota {
    counts: Arc<Mutex<HashMap<u32, u64>>>,
}

impl core::fmt::Debug for SignalQuota {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SignalQuota")
    }
}

/// One queued signal's share of its user's quota.
#[derive(Debug)]
pub(crate) struct Charge {
    quota: SignalQuota,
    uid: u32,
}

impl SignalQuota {
    pub(crate) fn new() -> Self {
        Self { counts: Arc::new(Mutex::new(SIGNAL_QUOTA, HashMap::new())) }
    }

    /// How many signals `uid` has queued.
    pub(crate) fn queued(&self, uid: u32) -> u64 {
        self.counts.lock().get(&uid).copied().unwrap_or(0)
    }

    /// Takes one from the quota of `uid` unless `limit` are taken.
    pub(crate) fn charge(&self, uid: u32, limit: u64) -> Option<Charge> {
        let mut counts = self.counts.lock();
        // Nothing stays of a user to whom nothing is given: a program may be any number of users in turn.
        let taken = counts.get(&uid).copied().unwrap_or(0);
        if taken >= limit {
            return None;
        }
        counts.insert(uid, taken.saturating_add(1));
        Some(Charge { quota: self.clone(), uid })
    }
}

impl SignalQuota {
    /// [`Self::charge`] as the room of an instance.
    pub(crate) fn room(&self, uid: u32, limit: u64) -> Room {
        self.charge(uid, limit).map_or(Room::None, |charge| Room::Quota { _charge: charge })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut counts = self.quota.counts.lock();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SignalQuota;

    #[test]
    fn users_without_queued_signals_are_forgotten() {
        let quota = SignalQuota::new();
        assert!((0..100).all(|uid| quota.charge(uid, 0).is_none()));
        assert!(quota.counts.lock().is_empty());
        let charge = quota.charge(7, 1).unwrap();
        assert_eq!((quota.queued(7), quota.queued(8)), (1, 0));
        assert!(quota.charge(7, 1).is_none());
        assert_eq!(quota.counts.lock().len(), 1);
        drop(charge);
        assert!(quota.counts.lock().is_empty());
    }
}
