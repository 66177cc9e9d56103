//! Lists of extended attributes (`FILE_FULL_EA_INFORMATION`), to and from WinFsp.

use fs_core::error::{Errno, Result};

/// Names under which the platform has something else.
const RESERVED: &str = "system.";
const HEADER_BYTES: usize = 8;

/// Whether a name is none that programs may use.
pub(super) fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(RESERVED))
}

/// The programs' names in the engine's list.
pub(super) fn names(list: &[u8]) -> impl Iterator<Item = &str> {
    let names = list.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    names.filter(|name| !name.is_empty() && !is_reserved(name))
}

/// Takes a list apart; nothing of one that is damaged.
pub(super) fn parse(list: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut at, mut entries) = (0, Vec::new());
    loop {
        let header = list.get(at..at + HEADER_BYTES).ok_or(Errno::INVAL)?;
        let next = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let name_bytes = usize::from(header[5]);
        let value_bytes = usize::from(u16::from_le_bytes([header[6], header[7]]));
        let begin = at + HEADER_BYTES;
        let name = list.get(begin..begin + name_bytes).ok_or(Errno::INVAL)?;
        let name = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
        let begin = begin + name_bytes + 1;
        let value = list.get(begin..begin + value_bytes).ok_or(Errno::INVAL)?;
        if name.is_empty() {
            return Err(Errno::INVAL);
        }
        entries.push((name.to_owned(), value.to_vec()));
        match next {
            0 => return Ok(entries),
            next if next < HEADER_BYTES => return Err(Errno::INVAL),
            next => at += next,
        }
    }
}

/// Puts a list together.
#[derive(Default)]
pub(super) struct Builder {
    list: Vec<u8>,
    last: usize,
}

impl Builder {
    pub(super) fn add(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let name_bytes = u8::try_from(name.len()).map_err(|_| Errno::RANGE)?;
        let value_bytes = u16::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
        if !self.list.is_empty() {
            self.list.resize(self.list.len().next_multiple_of(4), 0);
            let step = (self.list.len() - self.last) as u32;
            self.list[self.last..self.last + 4].copy_from_slice(&step.to_le_bytes());
        }
        self.last = self.list.len();
        self.list.extend([0, 0, 0, 0, 0, name_bytes]);
        self.list.extend(value_bytes.to_le_bytes());
        self.list.extend(name.as_bytes());
        self.list.push(0);
        self.list.extend(value);
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut list = Builder::default();
        list.add("ONE", b"first").expect("it fits");
        list.add("TWO", b"").expect("it fits");
        list.add("THREE", &[7; 300]).expect("it fits");
        let list = list.finish();
        let names: Vec<_> = parse(&list).expect("a list").into_iter().map(|one| one.0).collect();
        assert_eq!(names, ["ONE", "TWO", "THREE"]);
        for length in 0..list.len() {
            assert!(parse(&list[..length]).is_err(), "{length}");
        }
        assert!(is_reserved("SYSTEM.NTFS_ACL") && !is_reserved("SYSTEMS"));
    }
}
