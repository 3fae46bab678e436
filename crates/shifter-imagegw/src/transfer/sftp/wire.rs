//! Packets of the SSH File Transfer Protocol, version 3, as draft-ietf-secsh-filexfer-02 has them. Bytes in, values out:
//! nothing here waits, and what does not fit is an error.

pub(super) const INIT: u8 = 1;
const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const LSTAT: u8 = 7;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const STAT: u8 = 17;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
pub(super) const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// Which attributes follow.
const SIZE: u32 = 1;
const OWNER: u32 = 2;
pub(super) const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const MORE: u32 = 1 << 31;

/// An answer that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A packet being written.
pub(super) struct Packet(Vec<u8>);

impl Packet {
    pub(super) fn new(kind: u8, id: u32) -> Self {
        Packet(vec![0, 0, 0, 0, kind]).u32(id)
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Of at most 4 GiB; ours have 32 KiB at most.
    pub(super) fn bytes(self, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let mut packet = self.u32(length);
        packet.0.extend(value);
        packet
    }

    /// With its length in front.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(4)).unwrap_or(u32::MAX);
        self.0.splice(..4, length.to_be_bytes());
        self.0
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Bytes.
    pub(crate) size: u64,
    /// Type and permissions as in `st_mode`.
    pub(crate) mode: u32,
    /// Seconds since 1970 by the server's clock.
    pub(crate) modified: u32,
}

impl Attributes {
    pub(crate) fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Status { code: u32, message: String },
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<(Vec<u8>, Attributes)>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// Bytes being read.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Fields(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut found = Attributes::default();
        if flags & SIZE != 0 {
            found.size = self.u64()?;
        }
        if flags & OWNER != 0 {
            self.take(8)?;
        }
        if flags & PERMISSIONS != 0 {
            found.mode = self.u32()?;
        }
        if flags & TIMES != 0 {
            self.take(4)?;
            found.modified = self.u32()?;
        }
        if flags & MORE != 0 {
            for _ in 0..self.u32()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        Ok(found)
    }
}

/// The first answer: the names of the extensions that the server has. What follows a version other than 3 is unknown.
pub(super) fn version(packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut fields = Fields(packet);
    if fields.u8()? != VERSION || fields.u32()? != 3 {
        return Err(Malformed);
    }
    let mut extensions = Vec::new();
    while !fields.0.is_empty() {
        extensions.push(fields.bytes()?.to_vec());
        fields.bytes()?;
    }
    Ok(extensions)
}

/// An answer, with the number of its request.
pub(super) fn reply(packet: &[u8]) -> Result<(u32, Reply), Malformed> {
    let mut fields = Fields(packet);
    let kind = fields.u8()?;
    let id = fields.u32()?;
    let reply = match kind {
        STATUS => {
            let code = fields.u32()?;
            // Servers of version 2 say nothing more.
            let message = fields.bytes().unwrap_or_default();
            Reply::Status { code, message: String::from_utf8_lossy(message).into_owned() }
        }
        HANDLE => Reply::Handle(fields.bytes()?.to_vec()),
        DATA => Reply::Data(fields.bytes()?.to_vec()),
        NAME => {
            let mut names = Vec::new();
            for _ in 0..fields.u32()? {
                let name = fields.bytes()?.to_vec();
                // The line that `ls -l` would print.
                fields.bytes()?;
                names.push((name, fields.attributes()?));
            }
            Reply::Names(names)
        }
        ATTRS => Reply::Attributes(fields.attributes()?),
        EXTENDED_REPLY => Reply::Extended(fields.0.to_vec()),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// What the server sends, without the length.
    fn sent(packet: Packet) -> Vec<u8> {
        packet.finish().split_off(4)
    }

    #[test]
    fn a_server_s_answers_are_read_and_every_shortened_one_is_refused() {
        let attributes = |packet: Packet| {
            let packet = packet.u32(SIZE | OWNER | PERMISSIONS | TIMES | MORE).u64(7).u32(1).u32(2);
            packet.u32(0o100_600).u32(3).u32(4).u32(1).bytes(b"k").bytes(b"v")
        };
        let found = Attributes { size: 7, mode: 0o100_600, modified: 4 };
        let table = [
            (Packet::new(HANDLE, 9).bytes(b"h"), Reply::Handle(b"h".to_vec())),
            (Packet::new(DATA, 9).bytes(b"data"), Reply::Data(b"data".to_vec())),
            (attributes(Packet::new(ATTRS, 9)), Reply::Attributes(found)),
            (
                attributes(Packet::new(NAME, 9).u32(1).bytes(b"n").bytes(b"-rw")),
                Reply::Names(vec![(b"n".to_vec(), found)]),
            ),
        ];
        for (packet, expected) in table {
            let bytes = sent(packet);
            assert_eq!(reply(&bytes), Ok((9, expected)));
            for length in 0..bytes.len() {
                assert_eq!(reply(&bytes[..length]), Err(Malformed), "{length}");
            }
        }
        let status = |packet: Packet| reply(&sent(packet)).unwrap().1;
        let full = Packet::new(STATUS, 1).u32(4).bytes(b"Failure").bytes(b"");
        assert_eq!(status(full), Reply::Status { code: 4, message: "Failure".to_owned() });
        assert_eq!(status(Packet::new(STATUS, 1).u32(4)), Reply::Status { code: 4, message: String::new() });
    }

    #[test]
    fn a_greeting_that_is_not_version_3_is_refused() {
        let greeting = |number: u32| sent(Packet::new(VERSION, number).bytes(b"a@b").bytes(b"1"));
        assert_eq!(version(&greeting(3)), Ok(vec![b"a@b".to_vec()]));
        assert_eq!(version(&greeting(2)), Err(Malformed));
        assert_eq!(version(b"Welcome to mycluster"), Err(Malformed));
        assert_eq!(version(b""), Err(Malformed));
    }
}
