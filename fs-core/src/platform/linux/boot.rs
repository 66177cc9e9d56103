//! Which boot of the kernel this is, and which mount.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, StatxFlags};

/// The kernel's number for this boot; zeros where /proc does not show it.
pub(super) fn id() -> [u8; 16] {
    static ID: OnceLock<[u8; 16]> = OnceLock::new();
    *ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        text.ok().and_then(|text| parse(&text)).unwrap_or_default()
    })
}

/// The kernel's number for the mount that a descriptor was opened on, which it never
/// uses again; 0 before Linux 6.8, where numbers are used again.
pub(super) fn mount_id(fd: BorrowedFd<'_>) -> u64 {
    // `STATX_MNT_ID_UNIQUE`.
    let unique = StatxFlags::from_bits_retain(0x4000);
    match rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, unique) {
        Ok(stat) if stat.stx_mask & unique.bits() != 0 => stat.stx_mnt_id,
        _ => 0,
    }
}

/// A UUID as the kernel prints it.
fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|&digit| digit != '-').collect();
    // Exactly 32 hexadecimal digits, no sign.
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_a_number() {
        assert_ne!(id(), [0; 16]);
        let parsed = parse("00112233-4455-6677-8899-aabbccddeeff\n").expect("a UUID");
        assert_eq!(parsed[..4], [0x00, 0x11, 0x22, 0x33]);
        assert_eq!(parse("00112233-4455-6677-8899-aabbccddeef"), None);
    }
}
