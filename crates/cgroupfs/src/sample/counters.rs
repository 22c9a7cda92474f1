//! Where counters come from. Only this file knows that they are files which stay open; whoever can read all groups at once
//! needs no more than this interface.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use crate::file::look;

/// A kernel file: its hierarchy's root directory, and its path below it.
pub(super) type Place = (Arc<File>, Box<Path>);

/// What the kernel says now.
pub(super) struct Told<'a> {
    pub(super) text: &'a [u8],
    /// Another group has come to stand here since it was read last: its counters began again.
    pub(super) anew: bool,
}

/// Files by number, in the order in which they are read.
pub(super) struct Counters {
    files: Vec<Counter>,
    /// How many descriptors may be kept; beyond them a file is opened for each read.
    budget: usize,
    kept: usize,
    buffer: Vec<u8>,
}

struct Counter {
    /// `None`: this node does not have it.
    place: Option<Place>,
    file: Option<File>,
    /// Of the file that was read last: a group made anew has others.
    inode: Option<u64>,
}

impl Counters {
    pub(super) fn new(budget: usize) -> Self {
        Self { files: Vec::new(), budget, kept: 0, buffer: vec![0; 4096] }
    }

    /// Another file to read, with the next number; opened when it is read first.
    pub(super) fn add(&mut self, place: Option<Place>) {
        self.files.push(Counter { place, file: None, inode: None });
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// No more will come.
    pub(super) fn shrink(&mut self) {
        self.files.shrink_to_fit();
    }

    /// A file's text; `None` without the file, or without the group.
    pub(super) fn read(&mut self, number: usize) -> Option<Told<'_>> {
        let counter = self.files.get_mut(number)?;
        if let Some(file) = &counter.file {
            if let Some(length) = read_whole(file, &mut self.buffer) {
                return Some(Told { text: self.buffer.get(..length)?, anew: false });
            }
            // A group that was removed and made again answers ENODEV on the old descriptor.
            counter.file = None;
            self.kept -= 1;
        }
        let (root, path) = counter.place.as_ref()?;
        let file = look(root, path).ok()?;
        let length = read_whole(&file, &mut self.buffer)?;
        let inode = file.metadata().ok().map(|m| m.ino());
        let anew = counter.inode.is_some() && counter.inode != inode;
        counter.inode = inode;
        if self.kept < self.budget {
            self.kept += 1;
            counter.file = Some(file);
        }
        Some(Told { text: self.buffer.get(..length)?, anew })
    }
}

fn read_whole(file: &File, buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        let length = file.read_at(buffer, 0).ok()?;
        if length < buffer.len() {
            return Some(length);
        }
        // The kernel gives as much as fits; a full buffer may be cut.
        buffer.resize(buffer.len() * 2, 0);
    }
}
