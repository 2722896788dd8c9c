//! Values by number, of which copies share nearly all: a copy that is changed copies one piece of some
//! hundred values and none of the others. `BTreeMap` copies everything, which takes milliseconds for a
//! hundred thousand rules.

use std::sync::Arc;

/// Values in the order of their numbers.
#[derive(Clone, Debug)]
pub(in crate::cloudstack) struct Pieces<T> {
    /// None is empty; their numbers ascend from piece to piece.
    pieces: Vec<Arc<Vec<(u64, T)>>>,
}

/// A piece that grows beyond this is cut in two.
const LONGEST: usize = 256;

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T: Clone> Pieces<T> {
    pub(in crate::cloudstack) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All of them, in order.
    pub(in crate::cloudstack) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.pieces.iter().flat_map(|piece| piece.iter()).map(|(number, value)| (*number, value))
    }

    /// Adds a value, unless there is one of this number.
    pub(in crate::cloudstack) fn add(&mut self, number: u64, value: T) {
        let Some(at) = self.piece_for(number) else {
            self.pieces.push(Arc::new(vec![(number, value)]));
            return;
        };
        let Err(place) = self.place(at, number) else { return };
        let is_last = at + 1 == self.pieces.len();
        let piece = Arc::make_mut(&mut self.pieces[at]);
        if piece.len() < LONGEST {
            piece.insert(place, (number, value));
        } else if is_last && place == piece.len() {
            // Numbers that ascend fill pieces.
            self.pieces.push(Arc::new(vec![(number, value)]));
        } else {
            piece.insert(place, (number, value));
            let upper = piece.split_off(LONGEST / 2);
            self.pieces.insert(at + 1, Arc::new(upper));
        }
    }

    /// Removes the value of a number, if there is one.
    pub(in crate::cloudstack) fn remove(&mut self, number: u64) {
        let Some(at) = self.piece_for(number) else { return };
        let Ok(place) = self.place(at, number) else { return };
        let piece = Arc::make_mut(&mut self.pieces[at]);
        piece.remove(place);
        if piece.is_empty() {
            self.pieces.remove(at);
        }
    }

    /// The piece that a number belongs into; `None`: there is none at all.
    fn piece_for(&self, number: u64) -> Option<usize> {
        let after = self.pieces.partition_point(|piece| piece[0].0 <= number);
        (!self.pieces.is_empty()).then(|| after.saturating_sub(1))
    }

    fn place(&self, at: usize, number: u64) -> Result<usize, usize> {
        self.pieces[at].binary_search_by_key(&number, |(number, _)| *number)
    }
}

/// The same values are the same however they are cut.
impl<T: Clone + Eq> PartialEq for Pieces<T> {
    fn eq(&self, other: &Self) -> bool {
        // Pieces that are shared are not looked into.
        self.pieces == other.pieces || self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// xorshift: repeatable.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn they_hold_what_a_map_holds_and_copies_stay_what_they_were() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for below in [10, 1000, 3000, u64::MAX] {
            let (mut pieces, mut map) = (Pieces::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in 0..6000 {
                let number = next(&mut state) % below;
                if next(&mut state).is_multiple_of(3) {
                    pieces.remove(number);
                    map.remove(&number);
                } else {
                    pieces.add(number, step);
                    map.entry(number).or_insert(step);
                }
                if step % 1000 == 0 {
                    copies.push((pieces.clone(), map.clone()));
                }
            }
            copies.push((pieces, map));
            for (pieces, map) in copies {
                assert!(pieces.iter().eq(map.iter().map(|(number, value)| (*number, value))));
                assert_eq!(pieces.is_empty(), map.is_empty());
                assert!(pieces.pieces.iter().all(|piece| (1..=LONGEST).contains(&piece.len())));
            }
        }
    }

    #[test]
    fn how_they_are_cut_makes_no_difference() {
        let (mut up, mut down) = (Pieces::default(), Pieces::default());
        (0..1000).for_each(|number| up.add(number, number));
        (0..1000).rev().for_each(|number| down.add(number, number));
        assert!(up == down && up.pieces.len() == 4 && up.pieces.len() < down.pieces.len());
        down.remove(500);
        assert!(up != down);
    }
}
