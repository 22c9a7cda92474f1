//! The allocator keeps what was freed; after the work on a large tree that is most of the process.

/// One heap for all threads. By itself glibc gives each thread one of its own, and what one of them has freed is of no use to
/// another, nor is it given back. (Giving back all large pieces at once saves as much, and made each long answer to a client
/// four times as dear: the kernel has to clear the same pages again and again.) To be called before there are other threads.
pub(crate) fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's mallopt(3) changes nothing but how memory is had from then on.
    #[allow(unsafe_code, reason = "glibc has no other way")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
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
