//! Values by address: many come, then they are looked up, and all go at once. No I/O.
//!
//! Not a map: its memory would go back in one piece, in which the kernel lets no other thread of Kea change the process's memory
//! map (munmap(2)), and glibc asks for that with every 4 KB that a packet thread's heap grows by (`malloc/arena.c`,
//! `grow_heap`). For a million records that was 20 ms, seen in the ACK delays. A vector goes back in pieces, as what is large
//! is a mapping of its own, whose end `realloc` gives back (`mremap_chunk`).

use std::net::IpAddr;

/// So many values go back at once, some megabyte of records.
const PIECE: usize = 16_384;

/// See the module.
pub struct Sorted<V> {
    values: Vec<(IpAddr, V)>,
    /// Whether they are in order.
    is_sorted: bool,
}

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self { values: Vec::new(), is_sorted: true }
    }
}

impl<V> Sorted<V> {
    /// Makes room for so many at least, when there is nothing yet.
    pub fn reserve(&mut self, many: usize) {
        if self.values.is_empty() {
            self.values.reserve_exact(many);
        }
    }

    /// Takes in the value of an address that has none yet.
    pub fn push(&mut self, address: IpAddr, value: V) {
        self.is_sorted = false;
        self.values.push((address, value));
    }

    /// The value of an address.
    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut V> {
        if !self.is_sorted {
            self.values.sort_unstable_by_key(|(address, _)| *address);
            self.is_sorted = true;
        }
        let place = self.values.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(&mut self.values[place].1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        self.values.iter().map(|(address, value)| (*address, value))
    }
}

impl<V> Drop for Sorted<V> {
    fn drop(&mut self) {
        while !self.values.is_empty() {
            self.values.truncate(self.values.len().saturating_sub(PIECE));
            self.values.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    #[test]
    fn what_comes_in_any_order_is_found() {
        let mut sorted = Sorted::default();
        assert_eq!(sorted.get_mut(v4(1)), None);
        sorted.reserve(3);
        for n in [3, 1] {
            sorted.push(v4(n), n);
        }
        *sorted.get_mut(v4(3)).unwrap() += 10;
        sorted.push(v4(2), 2);
        let found = [1, 2, 3, 4].map(|n| sorted.get_mut(v4(n)).copied());
        assert_eq!(found, [Some(1), Some(2), Some(13), None]);
        assert_eq!(sorted.iter().map(|(address, _)| address).collect::<Vec<_>>(), [1, 2, 3].map(v4));
    }

    #[test]
    fn more_than_a_piece_goes_as_well() {
        let counted = std::rc::Rc::new(());
        let mut sorted = Sorted::default();
        for n in 0..=u32::try_from(PIECE).unwrap() {
            sorted.push(v4(n), counted.clone());
        }
        drop(sorted);
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }
}
