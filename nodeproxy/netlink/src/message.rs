//! Netlink messages: the 16-byte header, the nfnetlink header behind it, and the kernel's error replies.
//!
//! Leaves the content of messages to the modules that know it, and sending to [`crate::socket`].

use nix::errno::Errno;

use crate::{
    Error, Result,
    attribute::{Reader, Writer, align},
};

/// Bytes of a message header (`struct nlmsghdr`).
pub const HEADER: usize = 16;
/// Bytes of the header that every netfilter message has behind it (`struct nfgenmsg`).
pub const NETFILTER_HEADER: usize = 4;

/// `NLMSG_ERROR`: an acknowledgement or an error.
pub const ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
pub const DONE: u16 = 3;
/// `NLM_F_REQUEST`: every message to the kernel has it.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer even if all is well.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: what is dumped changed meanwhile.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the error reply does not repeat the request.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the error reply carries attributes.
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLM_F_EXCL`: fail if it exists.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_DUMP`: list all objects.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`: create it if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add it behind the existing ones.
pub const APPEND: u16 = 0x800;

/// One message in a received buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Message type (`NLMSG_…`, `RTM_…`, or subsystem and `NFT_MSG_…`).
    pub kind: u16,
    /// Flags (`NLM_F_…`) as a bit set.
    pub flags: u16,
    /// Sequence number of the request that it answers; 0 for a notification.
    pub sequence: u32,
    /// The bytes behind the header.
    pub payload: &'a [u8],
}

/// Walks the messages in a received buffer; after the first malformed one it ends.
#[derive(Debug)]
pub struct Messages<'a>(&'a [u8]);

/// Content of an error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `None` is an acknowledgement.
    pub error: Option<Errno>,
    /// Text of the extended acknowledgement.
    pub text: Option<String>,
    /// Offset in the request of the attribute that the kernel objects to.
    pub offset: Option<usize>,
}

/// Appends one message whose payload `content` writes; returns its length.
///
/// # Errors
/// If an attribute in it is too long.
pub fn append(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    content: impl FnOnce(&mut Writer),
) -> Result<usize> {
    let mut writer = Writer::new();
    content(&mut writer);
    let payload = writer.finish()?;
    let length = HEADER + payload.len();
    let length32 = u32::try_from(length).map_err(|_too_long| Error::TooLong(format!("message {kind:#x}")))?;
    buffer.extend_from_slice(&length32.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&payload);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
    Ok(length)
}

/// Writes the netfilter header: address family, version 0, resource id.
pub fn netfilter_header(writer: &mut Writer, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    writer.raw(&[family, 0, high, low]);
}

impl<'a> Messages<'a> {
    /// Reads the messages in `buffer`.
    pub fn new(buffer: &'a [u8]) -> Self {
        Self(buffer)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self(rest) = *self;
        if rest.is_empty() {
            return None;
        }
        self.0 = &[];
        let Some(header) = rest.first_chunk::<HEADER>() else {
            return Some(Err(Error::Malformed(format!("{} bytes are no message", rest.len()))));
        };
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        if length < HEADER || length > rest.len() {
            return Some(Err(Error::Malformed(format!("message says {length} of {} bytes", rest.len()))));
        }
        self.0 = &rest[align(length).min(rest.len())..];
        Some(Ok(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload: &rest[HEADER..length],
        }))
    }
}

impl<'a> Message<'a> {
    /// Reads an error reply (`struct nlmsgerr`, then attributes of the extended acknowledgement).
    pub fn reply(&self) -> Result<Reply> {
        let (error, rest) = self.status()?;
        let request = rest.first_chunk::<4>().map_or(HEADER, |length| u32::from_ne_bytes(*length) as usize);
        let skip = if self.flags & CAPPED == 0 { align(request.max(HEADER)) } else { HEADER };
        let (mut text, mut offset) = (None, None);
        if self.flags & ACK_ATTRIBUTES != 0 {
            for attribute in Reader::new(rest.get(skip..).unwrap_or_default()) {
                let attribute = attribute?;
                match attribute.kind {
                    1 => text = Some(attribute.string()?),
                    2 => offset = attribute.value.first_chunk::<4>().map(|o| u32::from_ne_bytes(*o) as usize),
                    _ => {}
                }
            }
        }
        Ok(Reply { error, text, offset })
    }

    /// Reads the error number at the start of an error reply or of the end of a dump.
    pub fn status(&self) -> Result<(Option<Errno>, &'a [u8])> {
        let Some((code, rest)) = self.payload.split_first_chunk::<4>() else {
            return Err(Error::Malformed(format!("error reply of {} bytes", self.payload.len())));
        };
        let code = i32::from_ne_bytes(*code);
        Ok(((code != 0).then(|| Errno::from_raw(code.saturating_neg())), rest))
    }

    /// Splits a netfilter message into the address family in its header and its attributes.
    pub fn netfilter(&self) -> Result<(u8, &'a [u8])> {
        match self.payload {
            [family, _, _, _, attributes @ ..] => Ok((*family, attributes)),
            short => Err(Error::Malformed(format!("netfilter message of {} bytes", short.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_extended_acknowledgement_gives_errno_text_and_offset() {
        let mut payload = (-2i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        let mut writer = Writer::new();
        writer.string(1, "no such chain");
        writer.bytes(2, &40u32.to_ne_bytes());
        payload.extend_from_slice(&writer.finish().expect("short"));
        let message = Message { kind: ERROR, flags: CAPPED | ACK_ATTRIBUTES, sequence: 7, payload: &payload };
        let reply = message.reply().expect("well formed");
        assert_eq!(
            reply,
            Reply { error: Some(Errno::ENOENT), text: Some("no such chain".into()), offset: Some(40) }
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), flags in any::<u16>()) {
            for message in Messages::new(&bytes).flatten() {
                drop(Message { flags, ..message }.reply());
                drop(message.netfilter());
            }
        }
    }
}
