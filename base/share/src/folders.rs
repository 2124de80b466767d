//! Listing folders.

use crate::Inner;
use crate::answer::{Answer, Asked};
use crate::attributes::put_entry;
use crate::files::put_open;
use crate::nodes::Nodes;
use crate::wire::Reply;
use rustix::fs::{OFlags, RawDir, SeekFrom, Stat};
use std::ffi::CStr;

/// Bytes of the host's entries that are read at once.
const READ_AT_ONCE: usize = 16 << 10;

/// Bytes of `struct fuse_dirent` without the name, and what entries are aligned to.
const ENTRY: usize = 24;
const ALIGNMENT: usize = 8;
/// Bytes of `struct fuse_entry_out`.
const NODE: usize = 128;

impl Inner {
    pub fn open_folder(&mut self, asked: &mut Asked<'_>) -> Answer {
        let folder = self.nodes.open(asked.header.node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut reply = Reply::default();
        put_open(&mut reply, self.handles.add(folder)?);
        Ok(reply)
    }

    /// As many entries as there is room for, from the one behind `offset` on; with `plus` each is looked up as well.
    pub fn read_folder(&mut self, asked: &mut Asked<'_>, plus: bool) -> Answer {
        let (handle, offset, size) = (asked.body.u64()?, asked.body.u64()?, asked.body.u32()?);
        let room = (size as usize).min(asked.room);
        let folder = self.handles.get(handle)?;
        rustix::fs::seek(folder, SeekFrom::Start(offset))?;
        let mut reply = Reply::default();
        let mut buffer = Vec::with_capacity(READ_AT_ONCE);
        let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(found) = entries.next() {
            let found = match found {
                Ok(found) => found,
                // The guest is told of what there is, and asks again for the rest.
                Err(_) if !reply.0.is_empty() => break,
                Err(error) => return Err(error),
            };
            let name = found.file_name();
            let len = (ENTRY + name.to_bytes().len()).next_multiple_of(ALIGNMENT) + if plus { NODE } else { 0 };
            if reply.0.len() + len > room {
                break;
            }
            if plus {
                match look_up_listed(&mut self.nodes, asked.header.node, name) {
                    Some((node, stat)) => put_entry(&mut reply, node, &stat),
                    None => drop(reply.bytes(&[0; NODE])),
                }
            }
            let before = reply.0.len();
            reply.u64(found.ino()).u64(found.next_entry_cookie());
            let kind = found.file_type().as_raw_mode() >> 12;
            reply.u32(name.to_bytes().len() as u32).u32(kind).bytes(name.to_bytes());
            reply.0.resize(before + (reply.0.len() - before).next_multiple_of(ALIGNMENT), 0);
        }
        Ok(reply)
    }
}

/// None for the folder itself, the one above, and what has gone meanwhile: the guest looks those up by themselves.
fn look_up_listed(nodes: &mut Nodes, folder: u64, name: &CStr) -> Option<(u64, Stat)> {
    let is_dots = matches!(name.to_bytes(), b"." | b"..");
    if is_dots { None } else { nodes.look_up(folder, name).ok() }
}
