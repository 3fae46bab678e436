//! The few blocks last used, by their place in the file. Its size is fixed when it is made; a search looks at
//! every slot, which for some dozens is cheaper than anything cleverer.

/// At most `slots` values, the least recently used given up first.
pub(super) struct Cache<K, V> {
    slots: usize,
    clock: u64,
    kept: Vec<Slot<K, V>>,
}

struct Slot<K, V> {
    key: K,
    used: u64,
    value: V,
}

impl<K: PartialEq, V: Clone> Cache<K, V> {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, clock: 0, kept: Vec::new() }
    }

    pub(super) fn get(&mut self, key: K) -> Option<V> {
        self.clock = self.clock.wrapping_add(1);
        let slot = self.kept.iter_mut().find(|slot| slot.key == key)?;
        slot.used = self.clock;
        Some(slot.value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        let slot = Slot { key, used: self.clock, value };
        if self.kept.len() < self.slots {
            self.kept.push(slot);
        } else if let Some(oldest) = self.kept.iter_mut().min_by_key(|slot| slot.used) {
            *oldest = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_given_up() {
        let mut cache = Cache::new(2);
        for (key, value) in [(1, 'a'), (2, 'b')] {
            assert_eq!(cache.get(key), None);
            cache.put(key, value);
        }
        assert_eq!(cache.get(1), Some('a'));
        assert_eq!(cache.get(3), None);
        cache.put(3, 'c');
        assert_eq!([1, 2, 3].map(|key| cache.get(key)), [Some('a'), None, Some('c')]);
    }
}
