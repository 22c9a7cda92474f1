//! ZooKeeper's wire format (jute), as far as one znode needs it: numbers are big-endian, texts and lists begin with their
//! length. Whatever a server sends is read with bounds; nothing here panics.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest reply that is read: a document has at most 1 MiB, and one that is a little larger is refused by its size.
pub(super) const MAX_FRAME: usize = 2 << 20;

/// Operations, by the numbers that `ZooDefs.OpCode` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Create = 1,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetAcl = 6,
    Sync = 9,
    Ping = 11,
    Auth = 100,
    Sasl = 102,
    Close = -11,
}

/// Numbers of requests that have none of their own.
pub(super) mod xid {
    pub(in super::super) const NOTIFICATION: i32 = -1;
    pub(in super::super) const PING: i32 = -2;
    pub(in super::super) const AUTH: i32 = -4;
}

/// Why a server did not do what it was asked: `KeeperException.Code`.
pub(super) mod code {
    pub(in super::super) const NO_NODE: i32 = -101;
    pub(in super::super) const NO_AUTH: i32 = -102;
    pub(in super::super) const BAD_VERSION: i32 = -103;
    pub(in super::super) const NODE_EXISTS: i32 = -110;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
    pub(in super::super) const INVALID_ACL: i32 = -114;
    pub(in super::super) const AUTH_FAILED: i32 = -115;
    pub(in super::super) const SASL_NEEDED: i32 = -124;
}

pub(super) mod permission {
    pub(in super::super) const WRITE: i32 = 2;
    pub(in super::super) const CREATE: i32 = 4;
    pub(in super::super) const DELETE: i32 = 8;
    pub(in super::super) const ADMIN: i32 = 16;
    pub(in super::super) const ALL: i32 = 31;
}

/// A reply is not what its request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A request, or a part of one.
#[derive(Default)]
pub(super) struct Writer(BytesMut);

impl Writer {
    pub(super) fn int(mut self, n: i32) -> Self {
        self.0.put_i32(n);
        self
    }

    pub(super) fn long(mut self, n: i64) -> Self {
        self.0.put_i64(n);
        self
    }

    pub(super) fn flag(mut self, set: bool) -> Self {
        self.0.put_u8(set.into());
        self
    }

    pub(super) fn buffer(mut self, bytes: &[u8]) -> Self {
        // Documents and credentials are far below 2 GiB.
        self.0.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.put_slice(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.buffer(text.as_bytes())
    }

    /// A list with one entry for whoever makes the znode: everybody, or those who proved themselves.
    pub(super) fn acl(self, scheme: &str, id: &str) -> Self {
        self.int(1).int(permission::ALL).text(scheme).text(id)
    }

    pub(super) fn done(self) -> Bytes {
        self.0.freeze()
    }
}

/// A reply, read from its beginning.
#[derive(Debug, Clone)]
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.0.try_get_i32().map_err(|_| Malformed)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.0.try_get_i64().map_err(|_| Malformed)
    }

    /// A length of -1 stands for nothing, which is as good as empty here.
    pub(super) fn buffer(&mut self) -> Result<Bytes, Malformed> {
        match self.int()? {
            -1 => Ok(Bytes::new()),
            n => {
                let n = usize::try_from(n).ok().filter(|n| *n <= self.0.len()).ok_or(Malformed)?;
                Ok(self.0.split_to(n))
            }
        }
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.buffer()?.into()).map_err(|_| Malformed)
    }
}

/// What is needed of a znode's `Stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) mzxid: i64,
    pub(super) version: i32,
}

impl Stat {
    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let (_czxid, mzxid, _ctime, _mtime) = (from.long()?, from.long()?, from.long()?, from.long()?);
        let (version, _cversion, _aversion) = (from.int()?, from.int()?, from.int()?);
        let (_owner, _length, _children, _pzxid) = (from.long()?, from.int()?, from.int()?, from.long()?);
        if mzxid < 0 || version < 0 { Err(Malformed) } else { Ok(Self { mzxid, version }) }
    }
}

/// One entry of an ACL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) permission: i32,
    pub(super) scheme: String,
    pub(super) id: String,
}

impl Acl {
    pub(super) fn read_list(from: &mut Reader) -> Result<Vec<Self>, Malformed> {
        let mut list = Vec::new();
        // No room is made for a number that a server only claims.
        for _ in 0..from.int()? {
            list.push(Self { permission: from.int()?, scheme: from.text()?, id: from.text()? });
        }
        Ok(list)
    }
}

/// What a server answers to a connect request. A session of 0 is one that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) timeout: i32,
    pub(super) session: i64,
    pub(super) password: Bytes,
}

impl Welcome {
    pub(super) fn read(from: &mut Reader) -> Result<Self, Malformed> {
        let (version, timeout, session, password) = (from.int()?, from.int()?, from.long()?, from.buffer()?);
        // What follows says whether it is read-only, which we do not ask for; servers before 3.4 do not say that.
        let known = version == 0 && timeout >= 0 && password.len() <= 64 && from.0.len() <= 64;
        if known { Ok(Self { timeout, session, password }) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(writer: Writer) -> Reader {
        Reader(writer.done())
    }

    #[test]
    fn what_is_cut_or_lies_about_its_length_is_malformed() {
        let stat =
            || Writer::default().long(1).long(7).long(3).long(4).int(5).int(6).int(7).long(8).int(9).int(10).long(11);
        assert_eq!(Stat::read(&mut reader(stat())), Ok(Stat { mzxid: 7, version: 5 }));
        let whole = stat().done();
        assert!((0..whole.len()).all(|end| Stat::read(&mut Reader(whole.slice(..end))).is_err()));
        let acl = || Writer::default().int(1).int(31).text("world").text("anyone");
        assert_eq!(Acl::read_list(&mut reader(acl())).unwrap().len(), 1);
        assert!(Acl::read_list(&mut reader(Writer::default().int(i32::MAX))).is_err());
        assert_eq!(Acl::read_list(&mut reader(Writer::default().int(-1))), Ok(Vec::new()));
        for length in [i32::MIN, -2, 4, i32::MAX] {
            assert_eq!(reader(Writer::default().int(length).flag(true)).buffer(), Err(Malformed), "{length}");
        }
        assert_eq!(reader(Writer::default().buffer(b"\xff")).text(), Err(Malformed));
    }

    #[test]
    fn a_welcome_is_checked() {
        let welcome = |version, timeout, length: usize| {
            Welcome::read(&mut reader(Writer::default().int(version).int(timeout).long(3).buffer(&vec![0; length])))
        };
        assert_eq!(welcome(0, 2000, 16).map(|w| (w.timeout, w.session)), Ok((2000, 3)));
        for (version, timeout, length) in [(1, 2000, 16), (0, -1, 16), (0, 2000, 65)] {
            assert_eq!(welcome(version, timeout, length), Err(Malformed));
        }
    }

    /// Whatever bytes come, reading them ends.
    #[test]
    fn random_bytes_are_read_to_an_end() {
        let mut dice = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = dice.usize(..200);
            let bytes: Bytes = std::iter::repeat_with(|| dice.u8(..)).take(length).collect();
            let _ = Stat::read(&mut Reader(bytes.clone()));
            let _ = Acl::read_list(&mut Reader(bytes.clone()));
            let _ = Welcome::read(&mut Reader(bytes.clone()));
            let _ = Reader(bytes).text();
        }
    }
}
