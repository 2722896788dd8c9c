//! Alerts for the management server: what went wrong with a service of the router, and what became of it.
//!
//! They are lines of `var/log/routerServiceMonitor.log` below the root, of the shape that CloudStack's own router
//! writes: `2026-01-20 10:01:02,123 [INFO] [haproxy] text`. `getRouterAlerts.sh` reads them.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::calendar::Moment;
use crate::root::Root;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is well again.
    Info,
    /// Somebody should look.
    Alert,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "INFO",
            Self::Alert => "ALERT",
        })
    }
}

/// Adds an alert about a service. A log of 10 MB is put aside, in the place of the one before.
///
/// # Errors
/// The log cannot be written.
pub fn append(root: &Root, severity: Severity, service: &str, text: &str) -> io::Result<()> {
    let path = log(root);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(&path).is_ok_and(|file| file.len() >= LONGEST) {
        fs::rename(&path, put_aside(root))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    file.write_all(line(SystemTime::now().into(), severity, service, text).as_bytes())
}

/// The lines that are newer than a date and time, `2026-01-20 10:01:02`, the oldest first.
///
/// # Errors
/// The log cannot be read; one that is not there has no lines.
pub fn since(root: &Root, date_time: &str) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for path in [put_aside(root), log(root)] {
        match fs::read(path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let newer = text.lines().filter(|line| moment(line).is_some_and(|moment| moment > date_time));
                lines.extend(newer.map(str::to_owned));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

/// Whether a text has the shape of a date and a time, as the management server reads them.
pub fn is_date_time(text: &str) -> bool {
    const SHAPE: &[u8] = b"dddd-dd-dd dd:dd:dd";
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == *shape };
    text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits)
}

/// When a line was written. Such texts are in the order of time.
fn moment(line: &str) -> Option<&str> {
    line.split_once(',').map(|(moment, _)| moment).filter(|moment| is_date_time(moment))
}

fn line(now: Moment, severity: Severity, service: &str, text: &str) -> String {
    // Lines are told apart by line ends here, and by a backslash with an n on their way.
    let text = text.replace(['\n', '\r', '\\'], " ");
    format!("{},{:03} [{severity}] [{service}] {text}\n", now.date_time(), now.microsecond() / 1000)
}

/// Bytes of a log before it is put aside, as CloudStack's own router rotates it.
const LONGEST: u64 = 10 << 20;

fn log(root: &Root) -> PathBuf {
    root.path().join("var/log/routerServiceMonitor.log")
}

fn put_aside(root: &Root) -> PathBuf {
    root.path().join("var/log/routerServiceMonitor.log.1")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    struct Folder(Root);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(Root::new(std::env::temp_dir().join(format!("xvr-alerts-{name}-{}", std::process::id()))))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(self.0.path()).ok();
        }
    }

    #[test]
    fn lines_are_those_of_pythons_logging() {
        let now = Moment::from(UNIX_EPOCH + Duration::from_micros(1_768_903_262_123_456));
        let expected =
            "2026-01-20 10:01:02,123 [INFO] [haproxy] The process haproxy is recovered successfully\n";
        assert_eq!(
            line(now, Severity::Info, "haproxy", "The process haproxy is recovered successfully"),
            expected
        );
        let odd = line(now, Severity::Alert, "ssh", "two\nlines\\n");
        assert_eq!(odd, "2026-01-20 10:01:02,123 [ALERT] [ssh] two lines n\n");
    }

    #[test]
    fn what_is_newer_is_found_and_what_is_no_alert_is_not() {
        let Folder(root) = &Folder::new("newer");
        assert_eq!(since(root, "1970-01-01 00:00:00").unwrap(), Vec::<String>::new());
        append(root, Severity::Alert, "haproxy", "gone").unwrap();
        fs::write(
            put_aside(root),
            "2026-01-20 10:01:02,123 [INFO] [a] first\nTraceback, most recent call last\n\n\
             2026-01-20 10:01:03,001 [ALERT] [b] second\n",
        )
        .unwrap();
        let all = since(root, "1970-01-01 00:00:00").unwrap();
        assert_eq!(all.len(), 3);
        assert!(
            all[0].ends_with("first") && all[1].ends_with("second") && all[2].ends_with("[haproxy] gone")
        );
        assert_eq!(since(root, "2026-01-20 10:01:02").unwrap(), all[1..]);
        assert_eq!(since(root, "9999-01-01 00:00:00").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let Folder(root) = &Folder::new("long");
        append(root, Severity::Info, "ssh", "first").unwrap();
        File::options().write(true).open(log(root)).unwrap().set_len(LONGEST).unwrap();
        append(root, Severity::Info, "ssh", "second").unwrap();
        assert_eq!(fs::metadata(put_aside(root)).unwrap().len(), LONGEST);
        assert_eq!(fs::read_to_string(log(root)).unwrap().lines().count(), 1);
        assert!(since(root, "1970-01-01 00:00:00").unwrap()[0].ends_with("first"));
    }
}
