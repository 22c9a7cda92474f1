//! Files that others may have put in place of ours: looked at before they are read, and read with a bound. A FIFO, a device
//! or a file without end is refused at once, whoever asks.

use std::fs::{self, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Bytes of a configuration.
pub const CONFIGURATION: usize = 1 << 20;
/// Bytes of a password, a token file or a key.
pub const SECRET: usize = 64 << 10;
/// Bytes of a file of certificates: a distribution's bundle has a quarter of that.
pub const CERTIFICATES: usize = 1 << 20;
/// Bytes of a file that may hold a document: one that is a little too large is refused by its size.
pub const DOCUMENT: usize = cgrove_core::document::MAX_BYTES + (64 << 10);

/// The kernel's file system of pipes without a name: `PIPEFS_MAGIC` of linux/magic.h.
const PIPES: rustix::fs::FsWord = 0x5049_5045;

/// The whole file. The error does not name it; `FileTooLarge` is one beyond `most` bytes.
pub fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    // A device may do something when it is opened.
    regular(fs::metadata(path)?.file_type())?;
    // What took its place meanwhile is not waited for, as one would for a FIFO's writer.
    let file = opened(path)?;
    let found = file.metadata()?;
    regular(found.file_type())?;
    if found.len() > most as u64 {
        return Err(too_large(Some(found.len()), most));
    }
    bounded(file, most)
}

/// The same as text.
pub fn read_text(path: &Path, most: usize) -> io::Result<String> {
    text(read(path, most)?)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The whole file that a command line names. It may be a pipe that the caller made, as for `/dev/stdin` or a shell's
/// `<(...)`: that one is waited for like standard input. A FIFO in a directory may have no writer, and is refused.
pub fn named(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        return read(path, most);
    }
    let file = opened(path)?;
    if rustix::fs::fstatfs(&file)?.f_type != PIPES {
        regular(file.metadata()?.file_type())?;
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    bounded(file, most)
}

/// The same as text.
pub fn named_text(path: &Path, most: usize) -> io::Result<String> {
    text(named(path, most)?)
}

/// Everything that comes, if that ends in time. A file may grow while it is read.
pub fn bounded(from: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take((most as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most { Err(too_large(None, most)) } else { Ok(bytes) }
}

/// Std adds `O_CLOEXEC`.
fn opened(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn regular(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

fn too_large(found: Option<u64>, most: usize) -> io::Error {
    let found = found.map_or(format!("more than {most}"), |n| n.to_string());
    io::Error::new(ErrorKind::FileTooLarge, format!("it has {found} bytes; at most {most} are read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let dir = std::env::temp_dir().join(format!("cgrove-files-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::File::options().write(true).open(&file).unwrap().set_len(3 << 30).unwrap();
        assert!(read(&file, DOCUMENT).unwrap_err().to_string().contains("3221225472 bytes"));
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let socket = dir.join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [(&fifo, "FIFO"), (&link, "device"), (&dir, "directory"), (&socket, "socket")] {
            let error = read(path, 10).unwrap_err().to_string();
            assert!(error.contains(what), "{path:?}: {error}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_pipe_of_the_callers_is_read_to_its_end() {
        let (from, mut to) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from));
        let writer = std::thread::spawn(move || {
            std::thread::park_timeout(std::time::Duration::from_millis(50));
            io::Write::write_all(&mut to, b"12345")
        });
        assert_eq!(named_text(Path::new(&path), 5).unwrap(), "12345");
        writer.join().unwrap().unwrap();
        let fifo = std::env::temp_dir().join(format!("cgrove-named-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = named(&fifo, 5).unwrap_err();
        fs::remove_file(&fifo).unwrap();
        assert!(error.to_string().contains("FIFO"), "{error}");
    }

    #[test]
    fn what_grows_while_it_is_read_ends_at_the_bound() {
        assert_eq!(bounded(io::repeat(0), 100).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(bounded(&b"abc"[..], 3).unwrap(), b"abc");
        // Whose length is not known before.
        assert!(!read(Path::new("/proc/self/mountinfo"), 1 << 20).unwrap().is_empty());
    }
}
