//! What one file may look like after a power cut, byte by byte: as at the last acknowledged step,
//! changed by any part of the steps that had begun since.
//!
//! [`history`](super::history) does the same in sectors and for steps that no sync follows for long;
//! here ranges have odd ends, and every kind of hole is told apart from what lies beside it.

use std::ops::Range;

use super::contents::bytes;

/// A change of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Bytes of this step.
    Write { offset: u64, length: u64 },
    /// A new length.
    Truncate { length: u64 },
    /// A hole; the length stays.
    Punch { offset: u64, length: u64 },
    /// `FALLOC_FL_ZERO_RANGE`.
    Zero { offset: u64, length: u64, keep_size: bool },
    /// `fallocate`.
    Allocate { offset: u64, length: u64, keep_size: bool },
}

impl Edit {
    /// The bytes whose content it may change.
    fn range(self) -> Range<u64> {
        match self {
            Edit::Write { offset, length }
            | Edit::Punch { offset, length }
            | Edit::Zero { offset, length, .. } => offset..offset + length,
            Edit::Truncate { length } => length..u64::MAX,
            Edit::Allocate { .. } => 0..0,
        }
    }

    /// The file's length after it.
    fn length_after(self, before: u64) -> u64 {
        match self {
            Edit::Truncate { length } => length,
            Edit::Punch { .. }
            | Edit::Zero { keep_size: true, .. }
            | Edit::Allocate { keep_size: true, .. } => before,
            Edit::Write { offset, length }
            | Edit::Zero { offset, length, .. }
            | Edit::Allocate { offset, length, .. } => before.max(offset + length),
        }
    }
}

/// Who wrote the bytes of a file last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    length: u64,
    /// By position, without overlap; what lies between is zeros.
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    step: u64,
}

impl Layout {
    /// The length of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Applies an edit of step `step`.
    pub fn apply(&mut self, step: u64, edit: Edit) {
        let range = edit.range();
        self.clear(&range);
        if matches!(edit, Edit::Write { .. }) && !range.is_empty() {
            let at = self.pieces.partition_point(|piece| piece.start < range.start);
            self.pieces.insert(at, Piece { start: range.start, end: range.end, step });
        }
        self.length = edit.length_after(self.length);
    }

    fn clear(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.pieces.partition_point(|piece| piece.end <= range.start);
        let last = self.pieces.partition_point(|piece| piece.start < range.end);
        let touched = self.pieces.get(first..last).unwrap_or_default();
        let before = touched.first().filter(|piece| piece.start < range.start);
        let after = touched.last().filter(|piece| piece.end > range.end);
        let before = before.map(|piece| Piece { end: range.start, ..*piece });
        let after = after.map(|piece| Piece { start: range.end, ..*piece });
        if first < last {
            self.pieces.splice(first..last, before.into_iter().chain(after));
        }
    }

    /// The first `count` bytes; zeros beyond the end.
    fn content(&self, (seed, actor): (u64, u32), count: usize) -> Vec<u8> {
        let mut content = vec![0; count];
        for piece in &self.pieces {
            let end = piece.end.min(count as u64);
            if piece.start < end {
                let part = bytes(seed, actor, piece.step, piece.start, end - piece.start);
                content[piece.start as usize..end as usize].copy_from_slice(&part);
            }
        }
        content
    }

    fn owner(&self, position: u64) -> Option<u64> {
        let piece = self.pieces.iter().find(|piece| (piece.start..piece.end).contains(&position));
        piece.map(|piece| piece.step)
    }
}

/// Judges the bytes of a file that was `base` at the last acknowledged step; the edits of `later`
/// had begun.
///
/// # Errors
/// Which byte, or the length, is not as promised.
pub fn check(
    found: &[u8],
    who: (u64, u32),
    base: &Layout,
    later: &[(u64, Edit)],
) -> Result<(), String> {
    check_length(found.len() as u64, base, later)?;
    let expected = base.content(who, found.len());
    if found == expected {
        return Ok(());
    }
    // What else may stand where: bytes of a later write, or zeros.
    let others: Vec<_> = later
        .iter()
        .map(|(step, edit)| {
            let range = edit.range();
            let written = match edit {
                Edit::Write { offset, length } => bytes(who.0, who.1, *step, *offset, *length),
                _ => Vec::new(),
            };
            (range, written)
        })
        .collect();
    let differs = |index: &usize| found[*index] != expected[*index];
    for index in (0..found.len()).filter(differs) {
        let position = index as u64;
        let right = others.iter().any(|(range, written)| {
            let inside = (position.wrapping_sub(range.start)) as usize;
            range.contains(&position) && found[index] == written.get(inside).copied().unwrap_or(0)
        });
        if !right {
            return Err(explain(found, index, who, base, later));
        }
    }
    Ok(())
}

// A write extends a file page by page, and an extension may show the end of a block first (XFS).
fn check_length(found: u64, base: &Layout, later: &[(u64, Edit)]) -> Result<(), String> {
    let mut allowed = vec![base.length..=base.length];
    let mut length = base.length;
    for (_, edit) in later {
        let after = edit.length_after(length);
        allowed.push(if after > length { length..=after } else { after..=after });
        length = after;
    }
    if allowed.iter().any(|range| range.contains(&found)) {
        return Ok(());
    }
    Err(format!(
        "the file has {found} bytes; it had, since the last acknowledged step, {allowed:?}"
    ))
}

fn explain(
    found: &[u8],
    index: usize,
    who: (u64, u32),
    base: &Layout,
    later: &[(u64, Edit)],
) -> String {
    let position = index as u64;
    let window = &found[index..(index + 8).min(found.len())];
    let owner = base.owner(position).map_or("zeros".to_owned(), |step| format!("step {step}"));
    let newest = later.iter().map(|(step, _)| *step).max();
    let newest = newest.or_else(|| base.pieces.iter().map(|piece| piece.step).max()).unwrap_or(0);
    let is = |step: &u64| bytes(who.0, who.1, *step, position, window.len() as u64) == window;
    let found = if window.iter().all(|byte| *byte == 0) {
        "zeros".to_owned()
    } else {
        let step = (0..=newest).rev().find(is);
        step.map_or("nothing that was ever written".to_owned(), |step| format!("step {step}"))
    };
    let touching = later.iter().filter(|(_, edit)| edit.range().contains(&position));
    let touching: Vec<_> = touching.collect();
    format!("byte {position} holds {found}; acknowledged was {owner}, later {touching:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const WHO: (u64, u32) = (11, 2);

    fn draw(random: &mut Random) -> Edit {
        let offset = random.below(5000) as u64;
        let length = 1 + random.below(2000) as u64;
        let keep_size = random.below(2) == 0;
        match random.below(6) {
            0 => Edit::Truncate { length: offset },
            1 => Edit::Punch { offset, length },
            2 => Edit::Zero { offset, length, keep_size },
            3 => Edit::Allocate { offset, length, keep_size },
            _ => Edit::Write { offset, length },
        }
    }

    // Against the same edits made to a plain array.
    fn plain(file: &mut Vec<u8>, step: u64, edit: Edit) {
        let length = edit.length_after(file.len() as u64) as usize;
        let range = edit.range();
        let end = (range.end.min(file.len() as u64)) as usize;
        if (range.start as usize) < end {
            file[range.start as usize..end].fill(0);
        }
        file.resize(length, 0);
        if let Edit::Write { offset, length } = edit {
            let written = bytes(WHO.0, WHO.1, step, offset, length);
            file[offset as usize..(offset + length) as usize].copy_from_slice(&written);
        }
    }

    #[test]
    fn a_layout_agrees_with_a_plain_array() {
        let mut random = Random::new(5);
        let (mut layout, mut file) = (Layout::default(), Vec::new());
        for step in 1..2000 {
            let edit = draw(&mut random);
            let before = (layout.clone(), file.clone());
            layout.apply(step, edit);
            plain(&mut file, step, edit);
            assert_eq!(layout.length(), file.len() as u64, "{edit:?}");
            assert_eq!(layout.content(WHO, file.len()), file, "{edit:?}");
            assert_eq!(check(&file, WHO, &layout, &[]), Ok(()));
            // The same file, when this step was under way; and the one before.
            assert_eq!(check(&file, WHO, &before.0, &[(step, edit)]), Ok(()), "{edit:?}");
            assert_eq!(check(&before.1, WHO, &before.0, &[(step, edit)]), Ok(()), "{edit:?}");
        }
    }

    #[test]
    fn one_old_byte_is_a_loss() {
        let mut layout = Layout::default();
        layout.apply(1, Edit::Write { offset: 0, length: 9000 });
        let old = layout.content(WHO, 9000);
        layout.apply(2, Edit::Write { offset: 4000, length: 200 });
        let new = layout.content(WHO, 9000);
        let mut found = new.clone();
        found[4199] = old[4199];
        let error = check(&found, WHO, &layout, &[]).unwrap_err();
        assert!(error.contains("byte 4199") && error.contains("step 2"), "{error}");
        let edit = Edit::Write { offset: 4199, length: 1 };
        assert!(check(&found, WHO, &layout, &[(3, edit)]).is_err(), "nobody wrote that");
        assert!(check(&new[..8999], WHO, &layout, &[]).is_err(), "a byte is missing");
        let cut = Edit::Truncate { length: 8999 };
        assert_eq!(check(&new[..8999], WHO, &layout, &[(3, cut)]), Ok(()));
        assert!(check(&new[..8998], WHO, &layout, &[(3, cut)]).is_err());
        let mut back = layout.clone();
        back.apply(3, Edit::Punch { offset: 4000, length: 200 });
        let error = check(&new, WHO, &back, &[]).unwrap_err();
        assert!(error.contains("acknowledged was zeros"), "{error}");
    }
}
