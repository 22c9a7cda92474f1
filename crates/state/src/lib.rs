//! Everything that outlives the process: small files in one directory that nobody but root, or the user that the
//! process runs as, may write. A file is replaced as a whole and durably, or not at all; what cannot be read, or is
//! not what was written, is an error and never "nothing is there". Blocking: callers choose the thread.

mod check;
mod dir;
mod error;
mod lock;

pub use dir::StateDir;
pub use error::StateError;
pub use lock::StateLock;
