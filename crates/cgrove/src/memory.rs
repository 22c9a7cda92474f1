//! The allocator keeps what was freed; after the work on a large tree that is most of the process.

/// Large pieces of memory go back to the kernel when they are freed. By itself glibc stops doing so with the first one, and
/// then keeps the room that long lists took. To be called before there are other threads.
pub(crate) fn large_pieces_go_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's mallopt(3) changes nothing but how memory is had from then on.
    #[allow(unsafe_code, reason = "glibc has no other way")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

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
