//! A network of one's own: only a loopback interface, so that ten servers can be checked at
//! a time on the same port.

use std::os::fd::AsRawFd;

use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u32 = 1;
/// In every network namespace.
const LOOPBACK_INDEX: i32 = 1;

/// Gives the calling thread, and the processes that it starts, a network of its own.
///
/// # Errors
/// What the kernel says.
pub(super) fn own_network() -> nix::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    let socket = nix::sys::socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    nix::sys::socket::send(socket.as_raw_fd(), &loopback_up(), MsgFlags::empty())?;
    Ok(())
}

/// A `nlmsghdr` with an `ifinfomsg` (rtnetlink(7)).
fn loopback_up() -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend_from_slice(&32_u32.to_ne_bytes());
    message.extend_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: nobody waits for an answer.
    message.extend_from_slice(&[0; 8]);
    // Family and type: any.
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message.extend_from_slice(&IFF_UP.to_ne_bytes());
    message
}
