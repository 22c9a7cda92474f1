//! The allocator keeps what was freed; after the work on a large tree that is most of the process.

/// Gives free memory back to the kernel.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    tokio::task::block_in_place(|| {
        // SAFETY: glibc's malloc_trim(3) may be called at any time, by any thread.
        #[allow(unsafe_code, reason = "glibc has no other way")]
        unsafe {
            nix::libc::malloc_trim(0);
        }
    });
}
