//! How many signals a user may have queued (RLIMIT_SIGPENDING, counted per real user id as getrlimit(2) says).

use std::sync::Arc;

use hashbrown::HashMap;
use sync::Mutex;

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

    /// Takes one from the quota of `uid` unless `limit` are taken.
    pub(crate) fn charge(&self, uid: u32, limit: u64) -> Option<Charge> {
        let mut counts = self.counts.lock();
        let count = counts.entry(uid).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Charge { quota: self.clone(), uid })
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
