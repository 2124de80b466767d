//! What other threads have for a vCPU, and how they reach it, running or halted.

use crate::lapic::Message;
use crate::translate::Workspace;
use motu_hv::Kick;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The vCPU's thread takes everything at once, between two blocks of guest code.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// There is something in `post`: read between blocks.
    flag: AtomicBool,
    state: Mutex<State>,
    arrived: Condvar,
    /// What tells translated code to leave.
    workspace: OnceLock<Arc<Workspace>>,
}

#[derive(Debug)]
struct State {
    post: Post,
    /// The vCPU runs no guest code, and takes its post before it does.
    rests: bool,
}

impl Default for State {
    fn default() -> Self {
        Self { post: Post::default(), rests: true }
    }
}

/// Everything that arrived since the vCPU last looked.
#[derive(Debug, Default)]
pub struct Post {
    pub kicked: bool,
    pub messages: Vec<Message>,
    pub ext_int: Option<bool>,
    /// Guest-physical addresses of pages to which the vCPU is not to write unseen any more.
    pub protect: Vec<u64>,
    /// Code that others have written.
    pub written: Vec<Written>,
    /// More was written than `written` has.
    pub forget_all: bool,
    /// The vCPU is to write to no page unseen any more.
    pub withdraw: Option<Withdraw>,
}

/// What a vCPU does of its rights to write to pages unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Withdraw {
    /// It gives them up: it has not run since it was asked to.
    Only,
    /// It has perhaps used them since, and notes the pages.
    Noting,
}

/// Bytes `first` to `last` of the page at a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub page: u64,
    pub first: u16,
    pub last: u16,
}

/// Writes that are kept apart for a vCPU that does not look; beyond that many it is to forget all code.
const MOST_WRITTEN: usize = 4096;
/// The last writes, to which a new one may be added.
const RECENT: usize = 8;

impl Post {
    fn add_written(&mut self, new: Written) {
        let recent = self.written.iter_mut().rev().take(RECENT).find(|old| old.page == new.page);
        if let Some(old) = recent {
            (old.first, old.last) = (old.first.min(new.first), old.last.max(new.last));
        } else if self.written.len() < MOST_WRITTEN {
            self.written.push(new);
        } else {
            self.forget_all = true;
        }
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Post)) {
        let mut state = self.lock();
        change(&mut state.post);
        self.ring();
        let rests = state.rests;
        // Who is woken takes the lock, perhaps on this CPU of the host's.
        drop(state);
        if rests {
            self.arrived.notify_all();
        }
    }

    /// The same for what can wait until the vCPU runs again. Says whether it rests.
    fn put_quietly(&self, change: impl FnOnce(&mut Post)) -> bool {
        let mut state = self.lock();
        change(&mut state.post);
        self.ring();
        state.rests
    }

    pub fn send(&self, message: Message) {
        self.put(|post| post.messages.push(message));
    }

    pub fn set_ext_int(&self, level: bool) {
        self.put(|post| post.ext_int = Some(level));
    }

    /// The vCPU is to write to the page at `page` no more without asking who holds code of it. True if it does not now and
    /// will not, as it rests; else it says so by `PageTracker::forgo_writes`.
    pub fn protect(&self, page: u64) -> bool {
        self.put_quietly(|post| post.protect.push(page))
    }

    /// The vCPU is to write to no page unseen any more.
    pub fn withdraw_writes(&self) {
        let mut state = self.lock();
        let how = if state.rests { Withdraw::Only } else { Withdraw::Noting };
        state.post.withdraw = state.post.withdraw.max(Some(how));
        self.ring();
    }

    /// Code that the vCPU may hold was written.
    pub fn code_written(&self, written: Written) {
        self.put_quietly(|post| post.add_written(written));
    }

    /// Makes the vCPU look up, with nothing to say.
    pub fn ring(&self) {
        self.flag.store(true, Ordering::Release);
        if let Some(workspace) = self.workspace.get() {
            workspace.disturb();
        }
    }

    /// Whose translated code is to leave for what is posted.
    pub fn belongs_to(&self, workspace: &Arc<Workspace>) {
        // A mailbox has one vCPU.
        let _ = self.workspace.set(Arc::clone(workspace));
    }

    /// Lets translated code run until the next post. What has been posted before is there for [`Mailbox::take`].
    pub fn settle(&self) {
        if let Some(workspace) = self.workspace.get() {
            workspace.settle();
        }
    }

    /// Whether [`Mailbox::take`] has anything to give.
    #[inline(always)]
    pub fn has_post(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    pub fn take(&self) -> Post {
        let mut state = self.lock();
        self.flag.store(false, Ordering::Release);
        std::mem::take(&mut state.post)
    }

    /// The vCPU's thread: from now on it runs guest code, or none.
    pub fn set_rests(&self, rests: bool) {
        self.lock().rests = rests;
    }

    pub fn rests(&self) -> bool {
        self.lock().rests
    }

    /// Sleeps until there is post, or for `limit`.
    pub fn wait(&self, limit: Option<Duration>) {
        let mut state = self.lock();
        if self.has_post() {
            return;
        }
        state.rests = true;
        let mut state = match limit {
            Some(limit) => self.arrived.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
            None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.rests = false;
    }
}

impl Kick for Mailbox {
    fn kick(&self) {
        self.put(|post| post.kicked = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_one_page_become_one_and_too_many_become_all() {
        let mailbox = Mailbox::default();
        let written = |page, first, last| Written { page, first, last };
        mailbox.code_written(written(0x1000, 8, 15));
        mailbox.code_written(written(0x2000, 0, 0));
        mailbox.code_written(written(0x1000, 4, 4));
        assert_eq!(mailbox.take().written, [written(0x1000, 4, 15), written(0x2000, 0, 0)]);
        for page in 0..2 * MOST_WRITTEN as u64 {
            mailbox.code_written(written(page << 12, 0, 1));
        }
        let post = mailbox.take();
        assert!(post.forget_all && post.written.len() == MOST_WRITTEN);
    }

    #[test]
    fn who_runs_notes_what_it_may_have_written_meanwhile() {
        let mailbox = Mailbox::default();
        mailbox.withdraw_writes();
        assert_eq!(mailbox.take().withdraw, Some(Withdraw::Only));
        mailbox.set_rests(false);
        mailbox.withdraw_writes();
        mailbox.set_rests(true);
        mailbox.withdraw_writes();
        assert_eq!(mailbox.take().withdraw, Some(Withdraw::Noting));
    }

    #[test]
    fn who_rests_is_not_waited_for_and_finds_its_post() {
        let mailbox = Mailbox::default();
        assert!(mailbox.protect(0x1000), "it has not run yet");
        mailbox.set_rests(false);
        assert!(!mailbox.protect(0x2000));
        assert!(mailbox.has_post());
        // There is post: no sleep.
        mailbox.wait(None);
        assert_eq!(mailbox.take().protect, [0x1000, 0x2000]);
        mailbox.wait(Some(Duration::from_millis(1)));
        assert!(!mailbox.rests());
    }
}
