//! Lines of fstab(5).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mounts::FILESYSTEM_TYPE;
use crate::failure::Failure;

/// The line that mounts a directory with these options, without its end.
///
/// It names the filesystem that the backing directory lies on as one that must be mounted first,
/// for systemd, which orders mounts by their own places otherwise if a line has `_netdev`.
///
/// # Errors
/// An option has a comma in it, which fstab has no way to write.
pub fn line(backing: &Path, mount_point: &Path, options: &[String]) -> Result<String, Failure> {
    const ORDER: &str = "x-systemd.requires-mounts-for=";
    if let Some(option) = options.iter().find(|option| option.contains(',')) {
        return Err(Failure::usage(format!(
            "`{option}` has a comma, which ends an option in /etc/fstab: name the file differently"
        )));
    }
    let mut options: Vec<_> = options.iter().map(|option| escape(option.as_bytes())).collect();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@".contains(byte);
    if !options.iter().any(|option| option.starts_with(ORDER))
        && backing.as_os_str().as_bytes().iter().all(is_plain)
    {
        options.push(format!("{ORDER}{}", backing.display()));
    }
    if options.is_empty() {
        options.push("defaults".to_owned());
    }
    let path = |path: &Path| escape(path.as_os_str().as_bytes());
    Ok(format!(
        "{} {} {FILESYSTEM_TYPE} {} 0 0",
        path(backing),
        path(mount_point),
        options.join(",")
    ))
}

/// Blanks would end a field, a backslash begins an octal number; bytes that are no text stay
/// readable that way too.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' ' | '\t' | '\n' | '\r' | '\\' | '#' => {
                    text.push_str(&format!("\\{:03o}", u32::from(character)));
                }
                plain => text.push(plain),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\{byte:03o}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_six_fields_whatever_is_in_the_names() {
        let options = ["allow_other".to_owned(), "log=/fast/a b".to_owned()];
        let said = line(Path::new("/srv/a b"), Path::new("/mnt/t\\#"), &options).expect("a line");
        let options = r"allow_other,log=/fast/a\040b";
        assert_eq!(said, format!(r"/srv/a\040b /mnt/t\134\043 fuse.lanefs {options} 0 0"));
    }

    #[test]
    fn the_backing_filesystem_comes_first() {
        let said = line(Path::new("/srv"), Path::new("/mnt"), &[]).expect("a line");
        assert_eq!(said, "/srv /mnt fuse.lanefs x-systemd.requires-mounts-for=/srv 0 0");
        assert!(line(Path::new("/a"), Path::new("/b"), &["log=/a,b".to_owned()]).is_err());
    }
}
