//! Values by address: many come, then they are looked up, and all go at once. No I/O.
//!
//! Not a map: its memory would go back in one piece, in which the kernel lets no other thread of Kea change the process's memory
//! map (munmap(2)), and glibc asks for that with every 4 KB that a packet thread's heap grows by (`malloc/arena.c`,
//! `grow_heap`). For a million records that was 20 ms, seen in the ACK delays. A vector goes back in pieces: from 32 MB on
//! it is a mapping of its own in any case, whose end `realloc` gives back (`malloc/malloc.c`, `mremap_chunk`). A smaller one may
//! be of the worker's heap, and then the heap may keep it for the next comparison.
//!
//! Nor is it in the order of the addresses: to sort a million took the worker 90 ms, and ten million 1.1 s, in which no
//! transaction is sent and no answer is heard. So a table says where an address is in the vector, as in any hash map.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::RandomState;

/// So many bytes go back at once.
const PIECE: usize = 1 << 20;

/// See the module.
pub struct AddressTable<V> {
    values: Vec<(IpAddr, V)>,
    /// Where in `values` an address is, plus one; 0 where none is. An address is in the first free place from that of its hash on,
    /// and at least a quarter of the places is free.
    places: Vec<u32>,
    /// Unknown to whoever writes to etcd, who could have all of them meet in one place.
    hashes: RandomState,
}

impl<V> Default for AddressTable<V> {
    fn default() -> Self {
        Self { values: Vec::new(), places: Vec::new(), hashes: RandomState::default() }
    }
}

impl<V> AddressTable<V> {
    /// Makes room for so many at least, when there is nothing yet. Where more come, all are placed anew.
    pub fn reserve(&mut self, many: usize) {
        if self.values.is_empty() && most_in(self.places.len()) < many {
            self.values.reserve_exact(many);
            self.places = places_for(many);
        }
    }

    /// Takes in the value of an address, instead of one that it had.
    ///
    /// # Panics
    /// Beyond 2^32 addresses, whose values no memory holds.
    pub fn insert(&mut self, address: IpAddr, value: V) {
        if self.values.len() + 1 > most_in(self.places.len()) {
            self.place_anew();
        }
        let place = self.place(address);
        if let Some(before) = self.in_place(place) {
            self.values[before].1 = value;
            return;
        }
        self.values.push((address, value));
        self.places[place] = u32::try_from(self.values.len()).expect("memory for them");
    }

    /// The value of an address.
    pub fn get_mut(&mut self, address: IpAddr) -> Option<&mut V> {
        if self.places.is_empty() {
            return None;
        }
        let index = self.in_place(self.place(address))?;
        Some(&mut self.values[index].1)
    }

    /// All of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        self.values.iter().map(|(address, value)| (*address, value))
    }

    /// Where the address is, or is to be.
    fn place(&self, address: IpAddr) -> usize {
        // As many places as a power of two has.
        let last = self.places.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "any part of a hash is as good")]
        let mut place = self.hashes.hash_one(address) as usize & last;
        while self.in_place(place).is_some_and(|index| self.values[index].0 != address) {
            place = (place + 1) & last;
        }
        place
    }

    /// Which of the values is in a place.
    fn in_place(&self, place: usize) -> Option<usize> {
        (self.places[place] as usize).checked_sub(1)
    }

    /// With twice the places.
    fn place_anew(&mut self) {
        self.places = places_for(2 * self.values.len() + 1);
        for (address, number) in (0..self.values.len()).map(|index| self.values[index].0).zip(1..) {
            let place = self.place(address);
            self.places[place] = number;
        }
    }
}

impl<V> Drop for AddressTable<V> {
    fn drop(&mut self) {
        give_back(&mut self.values);
        give_back(&mut self.places);
    }
}

/// Free places for so many values.
fn places_for(many: usize) -> Vec<u32> {
    // The memory comes zeroed, page by page, when it is first touched.
    vec![0; (many + many / 3 + 1).next_power_of_two()]
}

/// How many values may be in so many places.
fn most_in(places: usize) -> usize {
    places * 3 / 4
}

/// Ends what is in a vector, and gives its memory back in pieces.
fn give_back<T>(of: &mut Vec<T>) {
    while !of.is_empty() {
        of.truncate(of.len().saturating_sub(PIECE / size_of::<T>().max(1)));
        of.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::v4;

    /// Values of so many addresses, in no order, with room for some of them.
    fn many(number: u32, reserved: usize) -> AddressTable<u32> {
        let mut many = AddressTable::default();
        many.reserve(reserved);
        for n in (0..number).map(|n| n.wrapping_mul(0x9e37_79b1)) {
            many.insert(v4(n), n);
        }
        many
    }

    #[test]
    fn what_comes_in_any_order_is_found_and_nothing_else() {
        for reserved in [0, 1, 3, 700, 1000, 5000] {
            let mut many = many(1000, reserved);
            for n in (0..1000_u32).map(|n| n.wrapping_mul(0x9e37_79b1)) {
                assert_eq!(many.get_mut(v4(n)).copied(), Some(n), "room for {reserved}");
                assert_eq!(many.get_mut(v4(n.wrapping_add(1))), None, "room for {reserved}");
            }
            assert_eq!(many.iter().count(), 1000);
            assert!(many.iter().all(|(address, n)| address == v4(*n)));
        }
    }

    #[test]
    fn in_nothing_is_nothing() {
        assert_eq!(AddressTable::<u32>::default().get_mut(v4(1)), None);
        assert_eq!(many(0, 10).get_mut(v4(1)), None);
    }

    #[test]
    fn a_value_takes_the_place_of_the_one_before() {
        let mut two = many(2, 2);
        two.insert(v4(0), 7);
        *two.get_mut(v4(0)).unwrap() += 1;
        assert_eq!(two.get_mut(v4(0)).copied(), Some(8));
        assert_eq!(two.iter().count(), 2);
    }

    #[test]
    fn what_there_is_room_for_is_not_placed_anew() {
        for reserved in 0..300 {
            let places = places_for(reserved).len();
            assert!(reserved <= most_in(places), "{reserved} in {places}");
        }
    }

    #[test]
    fn more_than_a_piece_goes_as_well() {
        let counted = std::rc::Rc::new(());
        let mut many = AddressTable::default();
        for n in 0..=u32::try_from(PIECE / 32).unwrap() {
            many.insert(v4(n), counted.clone());
        }
        drop(many);
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }
}
