//! A map's values as memory of this process, shared with the programs (`BPF_F_MMAPABLE`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use aya::maps::MapData;

/// The values of an array, in their order.
pub(super) struct Mapped<T> {
    values: NonNull<T>,
    length: usize,
    /// Its descriptor is in programs that are loaded later.
    _map: MapData,
}

// SAFETY: the memory stays mapped until the value is dropped, and whoever takes a pointer of it has to access it
// as what other CPUs write to.
unsafe impl<T> Send for Mapped<T> {}

impl<T: aya::Pod> Mapped<T> {
    /// Maps an array of so many values, whose size is a multiple of 8.
    ///
    /// # Errors
    /// It may not be mapped, or is shorter.
    pub(super) fn new(map: MapData, length: u32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
        let length = length as usize;
        // SAFETY: a new mapping of a map that may be mapped; longer than it is the kernel refuses.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(memory.cast::<T>()) {
            Some(values) if memory != libc::MAP_FAILED => Ok(Self { values, length, _map: map }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl<T> Mapped<T> {
    /// Where a value is.
    ///
    /// # Panics
    /// There are fewer.
    pub(super) fn pointer(&self, index: usize) -> *mut T {
        assert!(index < self.length, "value {index} of {}", self.length);
        // SAFETY: within the mapping.
        unsafe { self.values.as_ptr().add(index) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing borrows it any more.
        unsafe { libc::munmap(self.values.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
