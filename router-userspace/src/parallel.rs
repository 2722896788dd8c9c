//! Work on things that do not depend on each other, by all processors there are.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{ScopedJoinHandle, available_parallelism, scope};

/// How many things a thread is worth.
const FEW: usize = 128;

/// What `f` makes of each, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads).max(FEW);
    let f = |some: &[T]| some.iter().map(&f).collect::<Vec<R>>();
    let (own, rest) = items.split_at(share.min(items.len()));
    scope(|scope| {
        let others: Vec<_> = rest.chunks(share).map(|some| scope.spawn(|| f(some))).collect();
        let mut made = f(own);
        others.into_iter().for_each(|other| made.extend(joined(other)));
        made
    })
}

/// What two make of what they do side by side, the first in a thread of its own.
pub fn both<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        (joined(first), second)
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_made_once_and_in_order() {
        for count in [0, 1, FEW - 1, FEW, FEW + 1, 10 * FEW + 7] {
            let items: Vec<usize> = (0..count).collect();
            assert!(map(&items, |item| item + 1).into_iter().eq(1..=count), "{count}");
        }
    }
}
