//! Deadlines in order. Pure: time is an argument.

use std::collections::BTreeMap;

/// Names a deadline while it is in the queue; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId(u64);

/// A set of deadlines with a value each.
#[derive(Debug)]
pub struct TimerQueue<T> {
    by_time: BTreeMap<(u64, TimerId), T>,
    next: u64,
}

impl<T> Default for TimerQueue<T> {
    fn default() -> Self {
        Self { by_time: BTreeMap::new(), next: 0 }
    }
}

impl<T> TimerQueue<T> {
    /// Adds a deadline; says whether it is the earliest now.
    pub fn insert(&mut self, deadline_ns: u64, value: T) -> (TimerId, bool) {
        let id = TimerId(self.next);
        self.next += 1;
        self.by_time.insert((deadline_ns, id), value);
        (id, self.by_time.first_key_value().is_some_and(|(key, _)| key.1 == id))
    }

    /// Takes a deadline out, if it is still there.
    pub fn remove(&mut self, deadline_ns: u64, id: TimerId) -> Option<T> {
        self.by_time.remove(&(deadline_ns, id))
    }

    /// The earliest deadline.
    pub fn earliest_ns(&self) -> Option<u64> {
        self.by_time.first_key_value().map(|(key, _)| key.0)
    }

    /// Takes out what is due at `now_ns`, earliest first.
    pub fn expire(&mut self, now_ns: u64) -> Vec<(TimerId, T)> {
        let mut due = Vec::new();
        while let Some(entry) = self.by_time.first_entry() {
            if entry.key().0 > now_ns {
                break;
            }
            let ((_, id), value) = entry.remove_entry();
            due.push((id, value));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::TimerQueue;

    #[test]
    fn deadlines_expire_in_order_and_removed_ones_never() {
        let mut q = TimerQueue::default();
        let (_, first) = q.insert(30, 'c');
        assert!(first);
        let (b, first) = q.insert(20, 'b');
        assert!(first);
        let (_, first) = q.insert(25, 'x');
        assert!(!first);
        q.insert(20, 'd');
        assert_eq!(q.remove(20, b), Some('b'));
        assert_eq!(q.remove(20, b), None);
        assert_eq!(q.expire(19), []);
        assert_eq!(q.earliest_ns(), Some(20));
        let due: Vec<char> = q.expire(25).into_iter().map(|(_, v)| v).collect();
        assert_eq!(due, ['d', 'x']);
        assert_eq!(q.earliest_ns(), Some(30));
    }
}
