//! Who runs a command: `USER[:GROUP]` by the guest's /etc/passwd and /etc/group (passwd(5), group(5)), with what Docker makes
//! of it: a number needs no entry, a name does; further groups are those that list the user's name, unless a group is
//! given.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of /etc/passwd or /etc/group that are read at most: they are the guest's to write.
const LONGEST: u64 = 4 << 20;

/// Further groups at most (NGROUPS_MAX, limits.h of Linux).
const MOST_GROUPS: usize = 65_536;

/// A user as the kernel knows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home folder; `/` for one without an entry.
    pub home: Vec<u8>,
}

/// The files that name users and groups.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub passwd: &'a Path,
    pub group: &'a Path,
}

impl Names<'static> {
    /// The machine's own.
    pub fn of_machine() -> Self {
        Names { passwd: Path::new("/etc/passwd"), group: Path::new("/etc/group") }
    }
}

impl Names<'_> {
    /// The user that `text` names, root if there is no text.
    ///
    /// # Errors
    /// For people: there is no such user or group, or a file cannot be read.
    pub fn find(&self, text: Option<&[u8]>) -> Result<User, String> {
        let text = text.unwrap_or_default();
        let (name, group) = match text.iter().position(|&byte| byte == b':') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        let (mut user, listed) = self.user(name)?;
        match (group.filter(|group| !group.is_empty()), listed) {
            (Some(group), _) => user.gid = self.group(group)?,
            (None, Some(name)) => user.groups = self.groups_of(&name)?,
            (None, None) => {}
        }
        Ok(user)
    }

    /// The user without further groups, and the name under which they may be listed.
    fn user(&self, name: &[u8]) -> Result<(User, Option<Vec<u8>>), String> {
        let wanted = if name.is_empty() { b"0" } else { name };
        let mut found = None;
        self.look(self.passwd, |fields| {
            let [entry, _, uid, gid, _, home, ..] = fields else { return false };
            let (Some(uid), Some(gid)) = (number(uid), number(gid)) else { return false };
            if *entry == wanted || number(wanted) == Some(uid) {
                found = Some((User { uid, gid, groups: Vec::new(), home: home.to_vec() }, Some(entry.to_vec())));
            }
            found.is_some()
        })?;
        if let Some((mut user, entry)) = found {
            if !user.home.starts_with(b"/") {
                user.home = b"/".to_vec();
            }
            return Ok((user, entry));
        }
        let uid = match number(wanted) {
            Some(uid) => uid,
            // A root file system without users has this one.
            None if wanted == b"root" => 0,
            None => return Err(format!("there is no user {:?} in the machine's /etc/passwd", shown(wanted))),
        };
        let home = if uid == 0 { b"/root".to_vec() } else { b"/".to_vec() };
        Ok((User { uid, gid: 0, groups: Vec::new(), home }, None))
    }

    fn group(&self, name: &[u8]) -> Result<u32, String> {
        let mut found = None;
        self.look(self.group, |fields| {
            let [entry, _, gid, ..] = fields else { return false };
            if *entry == name {
                found = number(gid);
            }
            found.is_some()
        })?;
        found
            .or_else(|| number(name))
            .ok_or_else(|| format!("there is no group {:?} in the machine's /etc/group", shown(name)))
    }

    fn groups_of(&self, user: &[u8]) -> Result<Vec<u32>, String> {
        let mut groups = Vec::new();
        self.look(self.group, |fields| {
            let [_, _, gid, members, ..] = fields else { return false };
            if members.split(|&byte| byte == b',').any(|member| member == user) {
                groups.extend(number(gid));
            }
            groups.len() >= MOST_GROUPS
        })?;
        Ok(groups)
    }

    /// Shows the fields of each line to `take` until it says that it has enough.
    fn look(&self, path: &Path, mut take: impl FnMut(&[&[u8]]) -> bool) -> Result<(), String> {
        let trouble = |error: io::Error| format!("{}: {error}", path.display());
        // A pipe in its place is not waited for.
        let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(trouble(error)),
        };
        for line in BufReader::new(file.take(LONGEST)).split(b'\n') {
            let line = line.map_err(trouble)?;
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            if take(&fields) {
                break;
            }
        }
        Ok(())
    }
}

/// A user's or group's number; 2^32 - 1 is none (chown(2)), and Docker takes those that fit 31 bits.
fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok().filter(|&number| number <= i32::MAX as u32)
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn find(passwd: &str, group: &str, text: &str) -> Result<User, String> {
        let folder = std::env::temp_dir().join(format!("motu-users-{}-{:p}", std::process::id(), &passwd));
        fs::create_dir_all(&folder).unwrap();
        let names = Names { passwd: &folder.join("passwd"), group: &folder.join("group") };
        fs::write(names.passwd, passwd).unwrap();
        fs::write(names.group, group).unwrap();
        let found = names.find((!text.is_empty()).then_some(text.as_bytes()));
        fs::remove_dir_all(&folder).unwrap();
        found
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/sh\nodd:x:44:44:::\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nssl:x:50:mail,web\nadm:x:51:web\nodd:x:zz:web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, String> {
        Ok(User { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn names_and_numbers_are_users() {
        for (text, expected) in [
            ("", user(0, 0, &[], "/root")),
            ("root", user(0, 0, &[], "/root")),
            ("web", user(33, 34, &[50, 51], "/var/www")),
            ("33", user(33, 34, &[50, 51], "/var/www")),
            ("web:ssl", user(33, 50, &[], "/var/www")),
            ("web:7", user(33, 7, &[], "/var/www")),
            ("web:", user(33, 34, &[50, 51], "/var/www")),
            ("1000", user(1000, 0, &[], "/")),
            ("1000:1001", user(1000, 1001, &[], "/")),
            (":ssl", user(0, 50, &[], "/root")),
            ("odd", user(44, 44, &[], "/")),
        ] {
            assert_eq!(find(PASSWD, GROUP, text), expected, "{text}");
        }
        assert_eq!(find("", "", "root"), user(0, 0, &[], "/root"));
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("motu-users-pipe-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let pipe = folder.join("passwd");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        let names = Names { passwd: &pipe, group: &pipe };
        assert_eq!(names.find(Some(b"7")), user(7, 0, &[], "/"));
        assert!(names.find(Some(b"web")).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nobody_by_that_name_is_said() {
        for (text, says) in [
            ("wbe", "no user \"wbe\""),
            ("web:sll", "no group \"sll\""),
            ("4294967295", "no user"),
            ("-1", "no user"),
            ("+5", "no user"),
            ("web:2147483648", "no group"),
        ] {
            let error = find(PASSWD, GROUP, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
