//! A guest's kernel, played by hand.

use super::*;
use crate::wire::{Body, ROOT, op};
use proptest::prelude::*;
use rustix::fs::{FileType, inotify};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tempfile::TempDir;

const ROOM: usize = MAX_MESSAGE;
const HEADER: usize = 40;

/// A message's body, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn text(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

fn message() -> Message {
    Message::default()
}

struct Guest {
    folder: TempDir,
    share: Share,
}

impl Guest {
    fn new(read_only: bool) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::write(folder.path().join("outside"), "not for guests").unwrap();
        let share = Share::open(&folder.path().join("share"), read_only).unwrap();
        Self { folder, share }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("share").join(name)
    }

    fn ask(&self, opcode: u32, node: u64, body: Message) -> Result<Vec<u8>, Errno> {
        self.ask_as((0, 0), opcode, node, body)
    }

    /// As a user and a group.
    fn ask_as(&self, (uid, gid): (u32, u32), opcode: u32, node: u64, body: Message) -> Result<Vec<u8>, Errno> {
        let len = (HEADER + body.0.len()) as u32;
        let header = message().u32(len).u32(opcode).u64(7).u64(node).u32(uid).u32(gid).u32(1).u32(0);
        let reply = self.share.answer(&header.bytes(&body.0).0, ROOM).expect("a reply");
        let (head, body) = reply.split_at(16);
        assert_eq!(head[..4], (reply.len() as u32).to_le_bytes());
        assert_eq!(head[8..], 7u64.to_le_bytes());
        match i32::from_le_bytes(head[4..8].try_into().unwrap()) {
            0 => Ok(body.to_vec()),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    fn look_up(&self, folder: u64, name: &str) -> Result<u64, Errno> {
        self.ask(op::LOOKUP, folder, message().text(name)).map(|entry| first(&entry))
    }

    fn create(&self, folder: u64, name: &str, flags: OFlags, mode: u32) -> Result<(u64, u64), Errno> {
        let body = message().u32(flags.bits()).u32(mode).u32(0).u32(0).text(name);
        self.ask(op::CREATE, folder, body).map(|reply| (first(&reply), first(&reply[128..])))
    }

    fn open(&self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        self.ask(op::OPEN, node, message().u32(flags.bits()).u32(0)).map(|reply| first(&reply))
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        self.ask(op::READ, 0, message().u64(handle).u64(offset).u32(size).u32(0).u64(0).u64(0))
    }

    fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u64, Errno> {
        let body = message().u64(handle).u64(offset).u32(data.len() as u32).u32(0).u64(0).u32(0).u32(0);
        self.ask(op::WRITE, 0, body.bytes(data)).map(|reply| first(&reply))
    }

    /// Names and nodes, read a few at a time.
    fn list(&self, folder: u64, plus: bool) -> Vec<(String, u64)> {
        let handle = first(&self.ask(op::OPENDIR, folder, message().u32(0).u32(0)).unwrap());
        let opcode = if plus { op::READDIRPLUS } else { op::READDIR };
        let (mut offset, mut found) = (0, Vec::new());
        loop {
            let body = message().u64(handle).u64(offset).u32(600).u32(0).u64(0).u64(0);
            let reply = self.ask(opcode, folder, body).unwrap();
            let mut left = &reply[..];
            if left.is_empty() {
                return found;
            }
            while !left.is_empty() {
                let node = if plus { first(left) } else { 0 };
                left = &left[if plus { 128 } else { 0 }..];
                offset = first(&left[8..]);
                let len = u32::from_le_bytes(left[16..20].try_into().unwrap()) as usize;
                found.push((String::from_utf8(left[24..24 + len].to_vec()).unwrap(), node));
                left = &left[(24 + len).next_multiple_of(8)..];
            }
        }
    }
}

fn first(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// The mode in an entry's attributes.
fn mode(entry: &[u8]) -> u32 {
    u32::from_le_bytes(entry[40 + 60..][..4].try_into().unwrap())
}

#[test]
fn versions_are_agreed_on() {
    let guest = Guest::new(false);
    let reply = guest.ask(op::INIT, 0, message().u32(7).u32(38).u32(0x20000).u32(u32::MAX)).unwrap();
    assert_eq!(reply.len(), 64);
    assert_eq!((&reply[..4], &reply[20..24]), (&7u32.to_le_bytes()[..], &(MAX_DATA as u32).to_le_bytes()[..]));
    // One that is too new asks again, one that is too old cannot be helped.
    assert_eq!(guest.ask(op::INIT, 0, message().u32(8).u32(0).u32(0).u32(0)).unwrap().len(), 8);
    assert_eq!(guest.ask(op::INIT, 0, message().u32(6).u32(0).u32(0).u32(0)), Err(Errno::PROTO));
    assert_eq!(guest.ask(9999, ROOT, message()), Err(Errno::NOSYS));
}

#[test]
fn files_are_made_written_read_moved_and_removed() {
    let guest = Guest::new(false);
    let made = guest.ask(op::MKDIR, ROOT, message().u32(0o775).u32(0).text("a")).unwrap();
    assert_eq!(mode(&made), 0o040_775, "whatever motu's umask is");
    let a = first(&made);
    let (file, handle) = guest.create(a, "f", OFlags::RDWR | OFlags::EXCL, 0o666).unwrap();
    assert_eq!(fs::metadata(guest.path("a/f")).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(guest.create(a, "f", OFlags::RDWR | OFlags::EXCL, 0o666), Err(Errno::EXIST));
    assert_eq!(guest.create(a, "f", OFlags::RDWR, 0o600).unwrap().0, file);
    assert_eq!(guest.write(handle, 3, b"hello").unwrap() as u32, 5);
    assert_eq!(guest.read(handle, 0, 100).unwrap(), b"\0\0\0hello");
    assert_eq!(guest.read(handle, 100, 100).unwrap(), b"");
    guest.ask(op::FSYNC, file, message().u64(handle).u32(1).u32(0)).unwrap();
    guest.ask(op::RENAME, a, message().u64(ROOT).text("f").text("g")).unwrap();
    assert_eq!(fs::read(guest.path("g")).unwrap(), b"\0\0\0hello");
    assert_eq!(guest.look_up(ROOT, "g"), Ok(file), "it is the same file");
    assert_eq!(guest.look_up(a, "f"), Err(Errno::NOENT));
    guest.ask(op::LINK, ROOT, message().u64(file).text("h")).unwrap();
    assert_eq!(fs::metadata(guest.path("h")).unwrap().nlink(), 2);
    fs::write(guest.path("a/taken"), "").unwrap();
    let no_replace = || message().u64(a).u32(1).u32(0).text("g").text("taken");
    assert_eq!(guest.ask(op::RENAME2, ROOT, no_replace()), Err(Errno::EXIST));
    guest.ask(op::UNLINK, ROOT, message().text("g")).unwrap();
    guest.ask(op::UNLINK, ROOT, message().text("h")).unwrap();
    assert_eq!(guest.read(handle, 3, 5).unwrap(), b"hello", "it is open");
    assert_eq!(guest.ask(op::GETATTR, file, message().u32(0).u32(0).u64(0)).unwrap().len(), 104);
    assert_eq!(guest.ask(op::RMDIR, ROOT, message().text("a")), Err(Errno::NOTEMPTY));
    guest.ask(op::UNLINK, a, message().text("taken")).unwrap();
    guest.ask(op::RMDIR, ROOT, message().text("a")).unwrap();
    guest.ask(op::RELEASE, file, message().u64(handle).u32(0).u32(0).u64(0)).unwrap();
    assert_eq!(guest.read(handle, 0, 1), Err(Errno::BADF));
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let guest = Guest::new(false);
    for name in ["..", ".", "", "a/b", "../outside", "/etc"] {
        assert_eq!(guest.look_up(ROOT, name), Err(Errno::INVAL), "{name:?}");
        assert_eq!(guest.ask(op::UNLINK, ROOT, message().text(name)), Err(Errno::INVAL), "{name:?}");
        let rename = message().u64(ROOT).text("x").text(name);
        assert_eq!(guest.ask(op::RENAME, ROOT, rename), Err(Errno::INVAL), "{name:?}");
        assert_eq!(guest.create(ROOT, name, OFlags::RDWR, 0o600), Err(Errno::INVAL), "{name:?}");
    }
    // Links lead where the guest's kernel takes them, and nowhere on the host.
    symlink("../outside", guest.path("out")).unwrap();
    symlink("..", guest.path("up")).unwrap();
    let (out, up) = (guest.look_up(ROOT, "out").unwrap(), guest.look_up(ROOT, "up").unwrap());
    assert_eq!(guest.ask(op::READLINK, out, message()).unwrap(), b"../outside");
    assert_eq!(guest.open(out, OFlags::RDONLY), Err(Errno::LOOP));
    assert_eq!(guest.create(ROOT, "out", OFlags::RDWR, 0o600), Err(Errno::LOOP));
    assert_eq!(guest.look_up(up, "outside"), Err(Errno::NOTDIR));
    let truncate = message().u32(1 << 3).u32(0).bytes(&[0; 80]);
    assert_eq!(guest.ask(op::SETATTR, out, truncate), Err(Errno::OPNOTSUPP));
    let times = message().u32(1 << 5).u32(0).bytes(&[0; 32]).u64(1_000_000).bytes(&[0; 40]);
    guest.ask(op::SETATTR, out, times).unwrap();
    assert_eq!(fs::symlink_metadata(guest.path("out")).unwrap().mtime(), 1_000_000);
    assert_ne!(fs::metadata(guest.path("out")).unwrap().mtime(), 1_000_000);
    assert_eq!(guest.ask(op::GETXATTR, out, message().u32(0).u32(0).text("user.x")), Err(Errno::OPNOTSUPP));
    guest.ask(op::LINK, ROOT, message().u64(out).text("second")).unwrap();
    assert!(fs::symlink_metadata(guest.path("second")).unwrap().is_symlink());
    assert_eq!(fs::read(guest.folder.path().join("outside")).unwrap(), b"not for guests");
    // A folder that the host puts a link in place of is still the folder.
    fs::create_dir(guest.path("d")).unwrap();
    let d = guest.look_up(ROOT, "d").unwrap();
    fs::rename(guest.path("d"), guest.path("moved")).unwrap();
    symlink("../..", guest.path("d")).unwrap();
    guest.create(d, "f", OFlags::RDWR, 0o600).unwrap();
    assert!(guest.path("moved/f").exists());
}

#[test]
fn devices_and_programs_of_other_users_are_not_made() {
    let guest = Guest::new(false);
    let node = |mode: u32| message().u32(mode).u32(0x103).u32(0).u32(0).text("n");
    assert_eq!(guest.ask(op::MKNOD, ROOT, node(0o020_666)), Err(Errno::PERM));
    assert_eq!(guest.ask(op::MKNOD, ROOT, node(0o060_666)), Err(Errno::PERM));
    let fifo = first(&guest.ask(op::MKNOD, ROOT, node(0o010_622)).unwrap());
    assert_eq!(fs::metadata(guest.path("n")).unwrap().permissions().mode() & 0o777, 0o622);
    assert_eq!(guest.open(fifo, OFlags::RDONLY), Err(Errno::NXIO), "a pipe is the guest's own");
    // Nor for a moment: opening some devices does something.
    let opened = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&opened, guest.path("n"), inotify::WatchFlags::OPEN).unwrap();
    assert_eq!(guest.create(ROOT, "n", OFlags::RDWR, 0o600), Err(Errno::NXIO));
    assert_eq!(rustix::io::read(&opened, &mut [0; 512]), Err(Errno::AGAIN));
    let (file, _) = guest.create(ROOT, "f", OFlags::RDWR, 0o4755).unwrap();
    let chmod = message().u32(1).u32(0).bytes(&[0; 60]).u32(0o6711).bytes(&[0; 16]);
    guest.ask(op::SETATTR, file, chmod).unwrap();
    assert_eq!(fs::metadata(guest.path("f")).unwrap().permissions().mode() & 0o7777, 0o711);
    let folder = guest.ask(op::MKDIR, ROOT, message().u32(0o2775).u32(0).text("d")).unwrap();
    assert_eq!(mode(&folder) & 0o777, 0o775);
}

#[test]
fn a_read_only_share_changes_nothing() {
    let guest = Guest::new(true);
    fs::write(guest.path("f"), "data").unwrap();
    let file = guest.look_up(ROOT, "f").unwrap();
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(guest.open(file, flags), Err(Errno::ROFS));
    }
    let handle = guest.open(file, OFlags::RDONLY).unwrap();
    assert_eq!(guest.write(handle, 0, b"x"), Err(Errno::ROFS));
    assert_eq!(guest.create(ROOT, "g", OFlags::RDWR, 0o600), Err(Errno::ROFS));
    let body = || message().u64(ROOT).u64(0).u64(0).u64(0).u64(0).u64(0).u64(0).u64(0).text("f").text("g");
    let changes = [
        op::SETATTR,
        op::SYMLINK,
        op::MKNOD,
        op::MKDIR,
        op::UNLINK,
        op::RMDIR,
        op::RENAME,
        op::RENAME2,
        op::LINK,
        op::CREATE,
        op::WRITE,
        op::FALLOCATE,
        op::COPY_FILE_RANGE,
        op::SETXATTR,
        op::REMOVEXATTR,
    ];
    for change in changes {
        assert_eq!(guest.ask(change, ROOT, body()), Err(Errno::ROFS), "message {change}");
    }
    assert_eq!(guest.read(handle, 0, 10).unwrap(), b"data");
    assert_eq!(guest.ask(op::ACCESS, file, message().u32(2).u32(0)), Err(Errno::ROFS));
}

#[test]
fn nobody_owns_a_file() {
    let guest = Guest::new(false);
    let (file, _) = guest.create(ROOT, "f", OFlags::RDWR, 0o600).unwrap();
    for (field, uid, gid) in [(2, u32::MAX, 0), (4, 0, u32::MAX)] {
        let chown = message().u32(field).u32(0).bytes(&[0; 64]).u32(0).u32(uid).u32(gid).u32(0);
        assert_eq!(guest.ask(op::SETATTR, file, chown), Err(Errno::INVAL));
    }
    guest.ask_as((u32::MAX, 0), op::MKDIR, ROOT, message().u32(0o700).u32(0).text("d")).unwrap_err();
    guest.ask_as((0, u32::MAX), op::SYMLINK, ROOT, message().text("d").text("x")).unwrap_err();
    assert!(fs::symlink_metadata(guest.path("d")).is_err(), "nothing is half made");
}

#[test]
fn what_a_user_makes_is_theirs_as_far_as_motu_may_say_so() {
    let guest = Guest::new(false);
    let user = (1234, 1235);
    guest.ask_as(user, op::MKDIR, ROOT, message().u32(0o2750).u32(0).text("d")).unwrap();
    guest.ask_as(user, op::MKNOD, ROOT, message().u32(0o010_644).u32(0).u32(0).u32(0).text("n")).unwrap();
    guest.ask_as(user, op::SYMLINK, ROOT, message().text("l").text("/etc/passwd")).unwrap();
    guest.ask_as(user, op::CREATE, ROOT, message().u32(2).u32(0o640).u32(0).u32(0).text("f")).unwrap();
    let folder = fs::metadata(guest.path("")).unwrap();
    let (uid, gid) = if rustix::process::geteuid().is_root() { user } else { (folder.uid(), folder.gid()) };
    for (name, mode) in [("d", 0o750), ("n", 0o644), ("l", 0o777), ("f", 0o640)] {
        let made = fs::symlink_metadata(guest.path(name)).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (uid, gid, mode), "{name}");
    }
}

#[test]
fn what_has_the_name_of_something_made_is_not_given_away() {
    let guest = Guest::new(false);
    fs::write(guest.path("f"), "somebody's").unwrap();
    let file = guest.look_up(ROOT, "f").unwrap();
    let header = message().bytes(&[0; 16]).u64(ROOT).u32(1234).u32(1235).u64(0);
    let (header, body) = wire::Header::read(&header.0).unwrap();
    let asked = answer::Asked { header, body, room: ROOM };
    let inner = guest.share.inner.lock().unwrap();
    let hand_over = |kind| inner.hand_over(&asked, file, kind, Some(Mode::RWXU)).map(drop);
    assert_eq!(hand_over(FileType::Fifo), Err(Errno::STALE), "it is of another kind");
    fs::hard_link(guest.path("f"), guest.path("g")).unwrap();
    assert_eq!(hand_over(FileType::RegularFile), Err(Errno::STALE), "it has had another name before");
    fs::remove_file(guest.path("g")).unwrap();
    assert_eq!(hand_over(FileType::RegularFile), Ok(()));
}

#[test]
fn a_guest_leaves_descriptors_for_others() {
    let guest = Guest::new(false);
    fs::write(guest.path("f"), "").unwrap();
    let file = guest.look_up(ROOT, "f").unwrap();
    guest.share.inner.lock().unwrap().nodes.limit = Limit::nothing();
    assert_eq!(guest.look_up(ROOT, "f"), Err(Errno::NFILE));
    assert!(guest.open(file, OFlags::RDONLY).is_ok());
    guest.share.inner.lock().unwrap().handles.limit = Limit::nothing();
    assert_eq!(guest.open(file, OFlags::RDONLY), Err(Errno::NFILE));
    assert_eq!(guest.ask(op::OPENDIR, ROOT, message().u32(0).u32(0)), Err(Errno::NFILE));
    assert!(guest.ask(op::GETATTR, file, message().u32(0).u32(0).u64(0)).is_ok());
}

#[test]
fn folders_are_listed_in_parts() {
    let guest = Guest::new(false);
    let mut names: Vec<String> = (0..100).map(|n| format!("file-{n}")).collect();
    names.iter().for_each(|name| fs::write(guest.path(name), name).unwrap());
    names.extend([".".into(), "..".into()]);
    names.sort();
    for plus in [false, true] {
        let mut found = guest.list(ROOT, plus);
        found.sort();
        assert_eq!(found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
        for (name, node) in found.iter().filter(|(_, node)| *node != 0) {
            assert_eq!(guest.look_up(ROOT, name), Ok(*node));
        }
        assert_eq!(found.iter().filter(|(_, node)| *node != 0).count(), if plus { 100 } else { 0 });
    }
}

#[test]
fn what_is_forgotten_is_closed() {
    let guest = Guest::new(false);
    fs::write(guest.path("f"), "").unwrap();
    let file = guest.look_up(ROOT, "f").unwrap();
    assert_eq!(guest.look_up(ROOT, "f"), Ok(file));
    let nodes = || guest.share.inner.lock().unwrap().nodes.len();
    let forget = |opcode: u32, body: Message| {
        let header = message().u32(0).u32(opcode).u64(7).u64(file).u32(0).u32(0).u32(1).u32(0);
        assert!(guest.share.answer(&header.bytes(&body.0).0, ROOM).is_none());
    };
    forget(op::FORGET, message().u64(1));
    assert_eq!(nodes(), 2);
    forget(op::BATCH_FORGET, message().u32(1000).u32(0).u64(file).u64(1).u64(ROOT).u64(9));
    assert_eq!(nodes(), 1);
    assert_eq!(guest.open(file, OFlags::RDONLY), Err(Errno::STALE));
    guest.share.reset();
    assert!(guest.look_up(ROOT, "f").is_ok());
}

#[test]
fn attributes_of_users_are_kept() {
    let guest = Guest::new(false);
    let (file, _) = guest.create(ROOT, "f", OFlags::RDWR, 0o600).unwrap();
    let set = |name: &str| message().u32(5).u32(0).text(name).bytes(b"value");
    match guest.ask(op::SETXATTR, file, set("user.name")) {
        Err(Errno::OPNOTSUPP) => return println!("SKIPPED: the host's folder for temporary files has no attributes"),
        set => set.unwrap(),
    };
    assert_eq!(guest.ask(op::SETXATTR, file, set("security.capability")), Err(Errno::OPNOTSUPP));
    assert_eq!(guest.ask(op::SETXATTR, file, set("trusted.x")), Err(Errno::OPNOTSUPP));
    let get = |size: u32| guest.ask(op::GETXATTR, file, message().u32(size).u32(0).text("user.name"));
    assert_eq!((get(0).unwrap()[0], get(4), get(100).unwrap()), (5, Err(Errno::RANGE), b"value".to_vec()));
    assert_eq!(guest.ask(op::LISTXATTR, file, message().u32(100).u32(0)).unwrap(), b"user.name\0");
    guest.ask(op::REMOVEXATTR, file, message().text("user.name")).unwrap();
    assert_eq!(get(100), Err(Errno::NODATA));
}

#[test]
fn a_folder_that_cannot_be_shared_is_said() {
    let folder = TempDir::new().unwrap();
    let open = |name: &str| Share::open(&folder.path().join(name), false).unwrap_err().to_string();
    assert!(open("none").contains("No such file"), "{}", open("none"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(open("file").contains("is no folder"), "{}", open("file"));
}

proptest! {
    #[test]
    fn no_message_does_harm(
        opcode in 0u32..60,
        node in 0u64..4,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..60,
        room in 0usize..5000,
    ) {
        let guest = Guest::new(false);
        fs::write(guest.path("f"), "data").unwrap();
        guest.look_up(ROOT, "f").unwrap();
        guest.open(2, OFlags::RDWR).unwrap();
        let header = message().u32(0).u32(opcode).u64(7).u64(node).u32(0).u32(0).u32(1).u32(0);
        let mut whole = header.bytes(&body).0;
        let reply = guest.share.answer(&whole, room);
        prop_assert!(reply.is_none_or(|reply| reply.len() <= room));
        whole.truncate(cut);
        guest.share.answer(&whole, room);
        prop_assert_eq!(fs::read_dir(guest.folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_reader_takes_no_more_than_there_is(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let message = [[0; HEADER].as_slice(), &bytes].concat();
        let (_, mut body): (_, Body<'_>) = wire::Header::read(&message).unwrap();
        let text = body.text().map(<[u8]>::len).unwrap_or(0);
        prop_assert!(text <= bytes.len());
        prop_assert!(body.bytes(bytes.len() + 1).is_err());
    }
}
