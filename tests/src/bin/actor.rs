//! The process behind `tests::actor`: reads orders, answers each with one line.
//!
//! | order | does |
//! | --- | --- |
//! | `create PATH MODE` | open with O_CREAT and O_EXCL, mode in octal |
//! | `mkdir PATH MODE` | mkdir |
//! | `umask MODE` | sets the umask |
//! | `write PATH OFFSET TEXT` | pwrite |
//! | `append PATH COUNT TEXT` | COUNT writes of the line TEXT through one O_APPEND descriptor |
//! | `read PATH` | the content |
//! | `truncate PATH LENGTH` | truncate |
//! | `chmod PATH MODE`, `chown PATH USER GROUP` | - keeps user or group |
//! | `unlink PATH`, `rename FROM TO` | |
//! | `touch PATH` | both times to now |
//! | `flock PATH shared\|exclusive\|unlock` | without waiting |
//! | `record PATH read\|write\|unlock START LENGTH` | fcntl F_SETLK |
//! | `conflict PATH read\|write START LENGTH` | fcntl F_GETLK: what stands in the way |
//! | `close PATH` | closes what `flock` and `record` opened |

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Error, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown};
use std::time::SystemTime;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, Mode, flock};

fn main() -> io::Result<()> {
    let mut files = HashMap::new();
    let mut stdout = io::stdout().lock();
    for order in io::stdin().lock().lines() {
        let order = order?;
        let words: Vec<&str> = order.split(' ').collect();
        match obey(&words, &mut files) {
            Ok(result) => writeln!(stdout, "{}", format!("ok {result}").trim_end())?,
            Err(error) => writeln!(stdout, "{}", name(&error))?,
        }
        stdout.flush()?;
    }
    Ok(())
}

fn obey(words: &[&str], files: &mut HashMap<String, File>) -> io::Result<String> {
    match *words {
        ["create", path, mode] => {
            OpenOptions::new().write(true).create_new(true).mode(octal(mode)?).open(path)?;
        }
        ["mkdir", path, mode] => rustix::fs::mkdir(path, Mode::from(octal(mode)?))?,
        ["umask", mode] => drop(rustix::process::umask(Mode::from(octal(mode)?))),
        ["write", path, offset, text] => {
            let file = OpenOptions::new().write(true).open(path)?;
            file.write_all_at(text.as_bytes(), number(offset)?)?;
        }
        ["append", path, count, text] => {
            let mut file = OpenOptions::new().append(true).open(path)?;
            let line = format!("{text}\n");
            for _ in 0..number(count)? {
                // One write each: a second one would not be atomic with the first.
                if file.write(line.as_bytes())? != line.len() {
                    return Err(Error::other("short"));
                }
            }
        }
        ["read", path] => return fs::read_to_string(path),
        ["truncate", path, length] => {
            OpenOptions::new().write(true).open(path)?.set_len(number(length)?)?;
        }
        ["chmod", path, mode] => {
            fs::set_permissions(path, fs::Permissions::from_mode(octal(mode)?))?;
        }
        ["chown", path, user, group] => chown(path, user.parse().ok(), group.parse().ok())?,
        ["unlink", path] => fs::remove_file(path)?,
        ["rename", from, to] => fs::rename(from, to)?,
        ["touch", path] => {
            let now = fs::FileTimes::new().set_accessed(SystemTime::now());
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_times(now.set_modified(SystemTime::now()))?;
        }
        ["flock", path, how] => {
            let operation = match how {
                "shared" => FlockOperation::NonBlockingLockShared,
                "exclusive" => FlockOperation::NonBlockingLockExclusive,
                "unlock" => FlockOperation::Unlock,
                _ => return Err(Error::other(format!("{how}?"))),
            };
            flock(opened(files, path)?, operation)?;
        }
        ["record", path, kind, start, length] => {
            let lock = record(kind, start, length)?;
            fcntl(opened(files, path)?, FcntlArg::F_SETLK(&lock))?;
        }
        ["conflict", path, kind, start, length] => {
            let mut lock = record(kind, start, length)?;
            fcntl(opened(files, path)?, FcntlArg::F_GETLK(&mut lock))?;
            return Ok(describe(&lock));
        }
        ["close", path] => drop(files.remove(path)),
        _ => return Err(Error::other(format!("{words:?}?"))),
    }
    Ok(String::new())
}

fn opened<'a>(files: &'a mut HashMap<String, File>, path: &str) -> io::Result<&'a File> {
    if !files.contains_key(path) {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        files.insert(path.to_owned(), file);
    }
    Ok(&files[path])
}

fn record(kind: &str, start: &str, length: &str) -> io::Result<libc::flock> {
    let kind = match kind {
        "read" => libc::F_RDLCK,
        "write" => libc::F_WRLCK,
        "unlock" => libc::F_UNLCK,
        _ => return Err(Error::other(format!("{kind}?"))),
    };
    Ok(libc::flock {
        l_type: i16::try_from(kind).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: number(start)?.cast_signed(),
        l_len: number(length)?.cast_signed(),
        l_pid: 0,
    })
}

fn describe(lock: &libc::flock) -> String {
    let kind = match i32::from(lock.l_type) {
        libc::F_UNLCK => return "none".to_owned(),
        libc::F_RDLCK => "read",
        _ => "write",
    };
    format!("{kind} {} {} {}", lock.l_start, lock.l_len, lock.l_pid)
}

fn octal(text: &str) -> io::Result<u32> {
    u32::from_str_radix(text, 8).map_err(Error::other)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(Error::other)
}

// The name of an errno says more than its number; other errors are mistakes in an order.
fn name(error: &Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
        None => format!("mistake: {error}"),
    }
}
