//! Patterns of a listing, as `FsRtlIsNameInExpression` has them: `*`, `?`, and the three that
//! Win32 makes of them for names of DOS (`<`, `>`, `"`).

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;

/// `*` of DOS: anything up to the last dot.
const DOS_STAR: u16 = b'<' as u16;
/// `?` of DOS: one, or none before a dot or at the end.
const DOS_QUESTION: u16 = b'>' as u16;
/// A dot of DOS: a dot, or the end.
const DOS_DOT: u16 = b'"' as u16;
const STAR: u16 = b'*' as u16;
const QUESTION: u16 = b'?' as u16;
const DOT: u16 = b'.' as u16;

/// Whether a name matches a pattern; case is ignored.
#[must_use]
pub fn matches(pattern: &[u16], name: &OsStr) -> bool {
    let name: Vec<u16> = name.encode_wide().collect();
    // Where in the name the pattern may be after each of its characters: at most one state for
    // each place, so that no pattern takes long.
    let mut places = vec![false; name.len() + 1];
    places[0] = true;
    for &wanted in pattern {
        places = step(&places, &name, wanted);
    }
    places[name.len()]
}

fn step(places: &[bool], name: &[u16], wanted: u16) -> Vec<bool> {
    let mut next = vec![false; places.len()];
    let last_dot = name.iter().rposition(|&unit| unit == DOT);
    for at in (0..places.len()).filter(|&at| places[at]) {
        let here = name.get(at).copied();
        match wanted {
            STAR => next[at..].fill(true),
            DOS_STAR => {
                let end = last_dot.filter(|&dot| dot >= at).unwrap_or(name.len());
                next[at..=end].fill(true);
            }
            DOS_QUESTION if here.is_none_or(|unit| unit == DOT) => next[at] = true,
            DOS_DOT if here.is_none() => next[at] = true,
            QUESTION | DOS_QUESTION if here.is_some() => next[at + 1] = true,
            DOS_DOT if here == Some(DOT) => next[at + 1] = true,
            _ if here.is_some_and(|unit| upper(unit) == upper(wanted)) => next[at + 1] = true,
            _ => {}
        }
    }
    next
}

/// Upper case as far as one unit becomes one unit, as NTFS's table has it.
fn upper(unit: u16) -> u16 {
    let Some(letter) = char::from_u32(u32::from(unit)) else { return unit };
    let mut upper = letter.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => u16::try_from(u32::from(one)).unwrap_or(unit),
        _ => unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_windows_says() {
        for (pattern, name, expected) in [
            ("*", "anything.at.all", true),
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.TXT", true),
            ("*.txt", "a.txt.bak", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("\u{e4}*", "\u{c4}rger", true),
            ("<.txt", "a.b.txt", true),
            ("<", "noext", true),
            ("a>>", "a", true),
            ("a>>", "ab", true),
            ("a>>", "abcd", false),
            ("a\"", "a", true),
            ("a\"txt", "a.txt", true),
            ("name", "name", true),
            ("name", "names", false),
            ("", "", true),
            ("", "a", false),
        ] {
            let units: Vec<u16> = pattern.encode_utf16().collect();
            assert_eq!(matches(&units, OsStr::new(name)), expected, "{pattern} {name}");
        }
    }

    /// Stars that each could take anything are no more work than one.
    #[test]
    fn no_pattern_takes_long() {
        let pattern: Vec<u16> = "*a".repeat(100).encode_utf16().collect();
        assert!(!matches(&pattern, OsStr::new(&"a".repeat(99))));
    }
}
