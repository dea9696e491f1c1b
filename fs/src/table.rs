//! Tables by hash that give back what they no longer need: a guest decides how large they once were.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashMap;

/// Entries up to which a table keeps its size.
const SMALL: usize = 64;

/// Removes `key`; a table that is an eighth full at most shrinks, so that it costs no more than a copy per removal.
pub(crate) fn remove<K, V, S, Q>(table: &mut HashMap<K, V, S>, key: &Q) -> Option<V>
where
    K: Eq + Hash + Borrow<Q>,
    S: BuildHasher,
    Q: Eq + Hash + ?Sized,
{
    let old = table.remove(key);
    // What it takes; its capacity does not count places of removed entries.
    let places = table.allocation_size() / (size_of::<(K, V)>() + 1);
    if places > SMALL && table.len() < places / 8 {
        table.shrink_to(table.len() * 2);
    }
    old
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;

    use super::{SMALL, remove};

    #[test]
    fn a_table_shrinks_with_what_is_in_it() {
        let mut table: HashMap<u32, u32> = (0..100_000).map(|number| (number, number)).collect();
        let full = table.allocation_size();
        for number in 0..50_000 {
            assert_eq!(remove(&mut table, &number), Some(number));
        }
        assert_eq!(table.allocation_size(), full);
        for number in 50_000..99_990 {
            assert_eq!(remove(&mut table, &number), Some(number));
        }
        assert!(table.allocation_size() < 4 * SMALL * size_of::<(u32, u32)>(), "{}", table.allocation_size());
        assert!((99_990..100_000).all(|number| table.get(&number) == Some(&number)));
    }
}
