//! Which pages hold decoded code, by whom, and who may write to them unseen.
//!
//! Up to 64 holders (CPUs) share one table. Before a CPU decodes code of a page it says so by [`PageTracker::hold`]; before it
//! lets itself write to a page without looking here each time, by [`PageTracker::allow_writes`]. Each of the two looks at
//! what the other has said, and their order is one for all CPUs: so either a writer learns of the holder, or the holder of the writer.

use crate::dirty::Log;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

const PAGE_SHIFT: usize = 12;
const PAGE_MASK: usize = (1 << PAGE_SHIFT) - 1;

/// CPUs that a table knows at most.
pub const MAX_HOLDERS: u32 = 64;

/// Per page of one RAM region: which CPUs hold code decoded from it, and which may write to it.
///
/// It is `vm-memory`'s write hook: [`Bitmap::mark_dirty`] runs behind every write by a loader or a
/// device. The engine's own stores do not come here; it asks [`PageTracker::holders`] itself.
#[derive(Clone, Debug, Default)]
pub struct PageTracker {
    inner: Arc<Inner>,
    /// Byte offset of this view in its region.
    offset: usize,
}

/// A write to bytes `first` to `last` of page number `page`, which `holders` hold code of: a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeWrite {
    pub page: u64,
    pub first: u16,
    pub last: u16,
    pub holders: u64,
}

/// Called behind every write to a code page, on the thread that writes, for as long as somebody has it.
pub type Listener = Arc<dyn Fn(CodeWrite) + Send + Sync>;

/// A [`Listener`] that somebody may still have.
type Listening = Weak<dyn Fn(CodeWrite) + Send + Sync>;

/// One page; a bit for each CPU.
#[derive(Debug)]
#[repr(C)]
struct Page {
    holders: AtomicU64,
    writers: AtomicU64,
}

#[derive(Default)]
struct Inner {
    pages: Box<[Page]>,
    listeners: RwLock<Vec<Listening>>,
    log: Log,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

fn bit(cpu: u32) -> u64 {
    1 << (cpu % MAX_HOLDERS)
}

impl PageTracker {
    fn page(&self, page: u64) -> Option<&Page> {
        usize::try_from(page).ok().and_then(|page| self.inner.pages.get(page))
    }

    /// `cpu` is about to decode code of page number `page`.
    pub fn hold(&self, page: u64, cpu: u32) {
        if let Some(page) = self.page(page) {
            page.holders.fetch_or(bit(cpu), Ordering::SeqCst);
        }
    }

    /// `cpu` has no decoded code of page number `page` any more.
    pub fn let_go(&self, page: u64, cpu: u32) {
        if let Some(page) = self.page(page) {
            page.holders.fetch_and(!bit(cpu), Ordering::SeqCst);
        }
    }

    /// The CPUs that hold code of page number `page`, as bits.
    pub fn holders(&self, page: u64) -> u64 {
        self.page(page).map_or(0, |page| page.holders.load(Ordering::SeqCst))
    }

    /// The same behind a store to the page that has been made without [`PageTracker::allow_writes`]: who is not told of here decodes
    /// what was stored.
    pub fn holders_behind_store(&self, page: u64) -> u64 {
        fence(Ordering::SeqCst);
        self.holders(page)
    }

    /// Whether `cpu` may write to page number `page` from now on without a look at its holders, of which there are none. It may
    /// until it says [`PageTracker::forgo_writes`].
    pub fn allow_writes(&self, page: u64, cpu: u32) -> bool {
        let Some(page) = self.page(page) else { return true };
        if page.holders.load(Ordering::SeqCst) != 0 {
            return false;
        }
        if page.writers.load(Ordering::Relaxed) & bit(cpu) != 0 {
            // A holder that comes now finds this CPU among the writers.
            return true;
        }
        page.writers.fetch_or(bit(cpu), Ordering::SeqCst);
        let allowed = page.holders.load(Ordering::SeqCst) == 0;
        if !allowed {
            page.writers.fetch_and(!bit(cpu), Ordering::SeqCst);
        }
        allowed
    }

    /// The CPUs that may write to page number `page` unseen, as bits.
    pub fn writers(&self, page: u64) -> u64 {
        self.page(page).map_or(0, |page| page.writers.load(Ordering::SeqCst))
    }

    /// `cpu` writes to page number `page` no more without asking.
    pub fn forgo_writes(&self, page: u64, cpu: u32) {
        if let Some(page) = self.page(page) {
            page.writers.fetch_and(!bit(cpu), Ordering::SeqCst);
        }
    }

    pub(crate) fn log_writes(&self, on: bool) {
        self.inner.log.set(on, self.inner.pages.len());
    }

    /// Whether pages that are written are to be noted ([`crate::GuestRam::log_writes`]).
    #[inline]
    pub fn logs_writes(&self) -> bool {
        self.inner.log.is_on()
    }

    /// Page number `page` has been written, or will be unseen from now on, up to when the log is taken.
    #[inline]
    pub fn note_write(&self, page: u64) {
        self.inner.log.note(page);
    }

    /// The same of 64 pages, from number 64 * `word` on, as bits.
    pub fn note_writes(&self, word: u64, pages: u64) {
        self.inner.log.note_all(word, pages);
    }

    /// Whether page number `page` was noted since the log was last taken.
    pub fn is_noted(&self, page: u64) -> bool {
        self.inner.log.has(page)
    }

    pub(crate) fn take_written(&self) -> Vec<u64> {
        self.inner.log.take()
    }

    /// Adds one who is told of the board's writes to code pages. There are several where engines take turns with a machine.
    pub fn listen(&self, listener: &Listener) {
        let mut listeners = self.inner.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() != 0);
        listeners.push(Arc::downgrade(listener));
    }

    fn tell(&self, write: CodeWrite) {
        let listeners = self.inner.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener(write));
    }
}

impl Bitmap for PageTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let first = offset.checked_add(self.offset);
        let Some((first, last)) = first.zip(len.checked_sub(1)).and_then(|(f, l)| Some((f, f.checked_add(l)?))) else {
            return;
        };
        // A CPU that is not among the holders yet finds what was written.
        fence(Ordering::SeqCst);
        for number in first >> PAGE_SHIFT..=last >> PAGE_SHIFT {
            let Some(page) = self.inner.pages.get(number) else { return };
            self.note_write(number as u64);
            let holders = page.holders.load(Ordering::SeqCst);
            if holders != 0 {
                let start = number << PAGE_SHIFT;
                let within = |at: usize| at.clamp(start, start | PAGE_MASK) as u16 & PAGE_MASK as u16;
                self.tell(CodeWrite { page: number as u64, first: within(first), last: within(last), holders });
            }
        }
    }

    /// Nobody asks: what is written is told of at once.
    fn dirty_at(&self, _: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { inner: Arc::clone(&self.inner), offset: self.offset + offset }
    }
}

impl WithBitmapSlice<'_> for PageTracker {
    type S = Self;
}

impl BitmapSlice for PageTracker {}

impl NewBitmap for PageTracker {
    fn with_len(len: usize) -> Self {
        let pages = zeroed_pages(len.div_ceil(1 << PAGE_SHIFT));
        Self { inner: Arc::new(Inner { pages, ..Inner::default() }), offset: 0 }
    }
}

/// Pages that nobody holds. The host gives memory for them only where they are used.
fn zeroed_pages(count: usize) -> Box<[Page]> {
    let zeros: Box<[[u64; 2]]> = vec![[0u64; 2]; count].into_boxed_slice();
    const _: () = assert!(size_of::<Page>() == size_of::<[u64; 2]>() && align_of::<Page>() == align_of::<[u64; 2]>());
    // SAFETY: a page is two atomic words, which have the layout of two words, and zeros are valid in them; the box is handed on whole.
    unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [Page]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> PageTracker {
        PageTracker::with_len(16 << PAGE_SHIFT)
    }

    #[test]
    fn a_holder_keeps_writers_away_and_a_writer_is_known_to_holders() {
        let tracker = tracker();
        assert!(tracker.allow_writes(3, 5));
        assert_eq!(tracker.writers(3), 1 << 5);
        tracker.hold(3, 63);
        assert!(!tracker.allow_writes(3, 6), "held");
        assert_eq!(tracker.writers(3), 1 << 5, "the one that may write is still to be asked");
        tracker.forgo_writes(3, 5);
        assert_eq!((tracker.holders(3), tracker.writers(3)), (1 << 63, 0));
        tracker.let_go(3, 63);
        assert!(tracker.allow_writes(3, 6));
        assert_eq!(tracker.holders(4), 0);
        assert!(tracker.allow_writes(1000, 0) && tracker.writers(1000) == 0, "no page");
    }

    #[test]
    fn either_the_writer_or_the_holder_learns_of_the_other() {
        for _ in 0..2000 {
            let tracker = tracker();
            let barrier = std::sync::Barrier::new(2);
            let (allowed, writers) = std::thread::scope(|scope| {
                let holder = scope.spawn(|| {
                    barrier.wait();
                    tracker.hold(0, 1);
                    tracker.writers(0)
                });
                barrier.wait();
                (tracker.allow_writes(0, 0), holder.join().unwrap())
            });
            assert!(!allowed || writers == 1, "a write right that nobody knows of");
        }
    }

    #[test]
    fn writes_of_the_board_are_told_by_page() {
        let tracker = tracker();
        let (told, heard) = std::sync::mpsc::channel();
        let listener: Listener = Arc::new(move |write| told.send(write).unwrap());
        tracker.listen(&listener);
        tracker.mark_dirty(0x3000, 1);
        tracker.hold(3, 0);
        tracker.hold(5, 2);
        tracker.slice_at(0x2ff0).mark_dirty(0x20, 0x2000);
        tracker.mark_dirty(usize::MAX, 2);
        let told: Vec<_> = heard.try_iter().collect();
        let write = |page, first, last, holders| CodeWrite { page, first, last, holders };
        assert_eq!(told, [write(3, 0x10, 0xfff, 1), write(5, 0, 0xf, 4)]);
        let (told, heard_too) = std::sync::mpsc::channel();
        let other: Listener = Arc::new(move |write| told.send(write).unwrap());
        tracker.listen(&other);
        tracker.mark_dirty(0x3000, 1);
        assert_eq!((heard.try_iter().count(), heard_too.try_iter().count()), (1, 1));
        drop(listener);
        tracker.mark_dirty(0x3000, 1);
        assert_eq!((heard.try_iter().count(), heard_too.try_iter().count()), (0, 1));
    }
}
