//! A netlink socket: send requests, gather acknowledgements and dumps, within a time limit.
//!
//! Owns sequence numbers, buffer sizes and the extended acknowledgement. Leaves the content of messages to its callers.
//! One socket serves one caller at a time. Replies to requests that an earlier call gave up on are recognised by their
//! sequence number and dropped.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket,
            sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, SetBool, SndBuf, SndBufForce},
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::{
    Error, Result,
    attribute::Writer,
    message::{self, Message, Messages, Reply},
};

/// Longest wait for one answer, in seconds. The kernel answers while it takes the request, so a timeout means
/// that something is very wrong.
pub const TIMEOUT: u64 = 10;

/// Attempts at a dump that other writers keep disturbing.
const DUMP_TRIES: u32 = 20;
/// Send buffer that is requested, in bytes: more than a cold start with 30,000 Services needs in one batch.
const SEND_BUFFER: usize = 128 << 20;
/// Receive buffer that is requested, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// One read; the kernel fills at most 32 KiB of a dump into a message buffer, and an event is smaller.
const READ: usize = 256 << 10;

const SOL_NETLINK: libc::c_int = libc::SOL_NETLINK;
const CAP_ACK: libc::c_int = libc::NETLINK_CAP_ACK;
const EXT_ACK: libc::c_int = 11; // NETLINK_EXT_ACK, include/uapi/linux/netlink.h

#[derive(Clone, Copy)]
struct CapAck;
#[derive(Clone, Copy)]
struct ExtAck;
nix::setsockopt_impl!(CapAck, SOL_NETLINK, CAP_ACK, bool, SetBool);
nix::setsockopt_impl!(ExtAck, SOL_NETLINK, EXT_ACK, bool, SetBool);

/// A netlink socket of one protocol.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    send_limit: usize,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for netfilter requests.
    pub fn netfilter() -> Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter, 0)
    }

    /// Opens a socket for routing requests.
    pub fn route() -> Result<Self> {
        Self::open(SockProtocol::NetlinkRoute, 0)
    }

    /// Opens a socket that receives events of multicast groups: bit `n - 1` is group `n`.
    pub(crate) fn subscribed(protocol: SockProtocol, groups: u32) -> Result<Self> {
        Self::open(protocol, groups)
    }

    fn open(protocol: SockProtocol, groups: u32) -> Result<Self> {
        let at = |step| move |source| Error::Open { step, source };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(at("socket"))?;
        // The forced sizes need CAP_NET_ADMIN in the initial user namespace; elsewhere the machine's limits hold.
        setsockopt(&fd, SndBufForce, &SEND_BUFFER)
            .or_else(|_not_permitted| setsockopt(&fd, SndBuf, &SEND_BUFFER))
            .map_err(at("send buffer"))?;
        setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_not_permitted| setsockopt(&fd, RcvBuf, &RECEIVE_BUFFER))
            .map_err(at("receive buffer"))?;
        setsockopt(&fd, CapAck, &true).map_err(at("NETLINK_CAP_ACK"))?;
        setsockopt(&fd, ExtAck, &true).map_err(at("NETLINK_EXT_ACK"))?;
        let timeout = TimeVal::seconds(i64::try_from(TIMEOUT).unwrap_or(i64::MAX));
        setsockopt(&fd, ReceiveTimeout, &timeout).map_err(at("timeout"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(at("bind"))?;
        let size = nix::sys::socket::getsockopt(&fd, SndBuf).map_err(at("send buffer size"))?;
        Ok(Self { fd, sequence: 0, send_limit: size.saturating_sub(64), buffer: vec![0; READ] })
    }

    /// Most bytes that one send may have (`netlink_sendmsg` refuses more than the send buffer less 32).
    pub fn send_limit(&self) -> usize {
        self.send_limit
    }

    /// Reserves `count` sequence numbers and returns the first.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        // 0 is what notifications carry; skip it when the counter wraps.
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 0;
        }
        let first = self.sequence + 1;
        self.sequence += count;
        first
    }

    /// Sends one request and waits until the kernel acknowledges or refuses it.
    pub fn request(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        content: impl FnOnce(&mut Writer),
    ) -> Result<()> {
        self.exchange(what, kind, flags, content, |_message| Ok(()))
    }

    /// Sends one request that is answered by messages, and hands each to `each` before the acknowledgement.
    pub(crate) fn ask(
        &mut self,
        what: &str,
        kind: u16,
        content: impl FnOnce(&mut Writer),
        each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<()> {
        self.exchange(what, kind, 0, content, each)
    }

    fn exchange(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        content: impl FnOnce(&mut Writer),
        mut each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<()> {
        let sequence = self.sequences(1);
        let mut bytes = Vec::new();
        message::append(&mut bytes, kind, flags | message::ACK, sequence, content)?;
        self.send(what, &bytes)?;
        loop {
            if let Some(reply) = self.replies(what, sequence, &mut each)? {
                return finish(what, reply);
            }
        }
    }

    /// Sends one dump request and hands each message of the answer to `each`. If the kernel reports that the
    /// objects changed meanwhile, `restart` is called and the dump starts again.
    pub fn dump(
        &mut self,
        what: &str,
        kind: u16,
        content: impl Fn(&mut Writer),
        mut restart: impl FnMut(),
        mut each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..DUMP_TRIES {
            let sequence = self.sequences(1);
            let mut bytes = Vec::new();
            message::append(&mut bytes, kind, message::DUMP, sequence, &content)?;
            self.send(what, &bytes)?;
            if self.gather(what, sequence, &mut each)? {
                return Ok(());
            }
            restart();
        }
        Err(Error::Interrupted { request: what.to_owned(), tries: DUMP_TRIES })
    }

    /// Reads a dump to its end; false if it was interrupted. An error of `each` is kept until the end has been read, so
    /// that the socket is free for the next dump.
    fn gather(
        &mut self,
        what: &str,
        sequence: u32,
        each: &mut impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<bool> {
        let (mut interrupted, mut failure) = (false, None);
        loop {
            let end = self.replies(what, sequence, |message| {
                interrupted |= message.flags & message::DUMP_INTERRUPTED != 0;
                if failure.is_none() && !interrupted {
                    failure = each(message).err();
                }
                Ok(())
            })?;
            let Some(reply) = end else { continue };
            finish(what, reply)?;
            return match failure {
                Some(error) if !interrupted => Err(error),
                _ => Ok(!interrupted),
            };
        }
    }

    /// Hands bytes to the kernel.
    pub(crate) fn send(&mut self, what: &str, bytes: &[u8]) -> Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(source) => return Err(Error::Send { request: what.to_owned(), source }),
            }
        }
    }

    /// Reads once; hands messages that answer `sequence` to `each`, and returns the acknowledgement, the error or the end
    /// of the dump if it was among them.
    fn replies(
        &mut self,
        what: &str,
        sequence: u32,
        mut each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<Option<Reply>> {
        let mut end = None;
        self.read(what, |message| {
            if message.sequence == sequence {
                match message.kind {
                    message::ERROR => end = Some(message.reply()?),
                    // The end of a dump has an error number of its own.
                    message::DONE => {
                        end = Some(Reply {
                            error: message.status().ok().and_then(|(e, _)| e),
                            text: None,
                            offset: None,
                        });
                        interrupted_end(message, &mut each)?;
                    }
                    _ => each(message)?,
                }
            }
            Ok(())
        })?;
        Ok(end)
    }

    /// Reads one datagram and hands each message in it to `each`.
    pub(crate) fn read(
        &mut self,
        what: &str,
        mut each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<()> {
        let length = self.receive(what, MsgFlags::empty())?;
        for message in Messages::new(&self.buffer[..length]) {
            each(&message?)?;
        }
        Ok(())
    }

    /// Like [`Socket::read`], but returns false at once when there is nothing to read.
    pub(crate) fn try_read(
        &mut self,
        what: &str,
        mut each: impl FnMut(&Message<'_>) -> Result<()>,
    ) -> Result<bool> {
        let length = match self.receive(what, MsgFlags::MSG_DONTWAIT) {
            Err(Error::Timeout { .. }) => return Ok(false),
            other => other?,
        };
        for message in Messages::new(&self.buffer[..length]) {
            each(&message?)?;
        }
        Ok(true)
    }

    fn receive(&mut self, what: &str, flags: MsgFlags) -> Result<usize> {
        loop {
            // With MSG_TRUNC the kernel returns the datagram's length even if it did not fit.
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => return Ok(length),
                Ok(length) => {
                    return Err(Error::Malformed(format!("a datagram of {length} bytes, answering: {what}")));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(Error::Timeout { request: what.to_owned(), seconds: TIMEOUT });
                }
                Err(source) => return Err(Error::Receive { request: what.to_owned(), source }),
            }
        }
    }
}

/// The end of a dump, too, may say that the dump was interrupted.
fn interrupted_end(message: &Message<'_>, each: &mut impl FnMut(&Message<'_>) -> Result<()>) -> Result<()> {
    if message.flags & message::DUMP_INTERRUPTED == 0 { Ok(()) } else { each(message) }
}

fn finish(what: &str, reply: Reply) -> Result<()> {
    match reply.error {
        None => Ok(()),
        Some(source) => Err(Error::Refused {
            operation: what.to_owned(),
            index: None,
            element: None,
            text: reply.text,
            source,
        }),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
