//! Which pages hold decoded code, and which of those the board has written to.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

const PAGE_SHIFT: usize = 12;

/// Per page of one RAM region: whether an engine holds code decoded from it.
///
/// It is `vm-memory`'s write hook: [`Bitmap::mark_dirty`] runs on every write by a loader or a
/// device. The engine's own stores do not come here; it checks [`PageTracker::is_code`] itself.
#[derive(Clone, Debug, Default)]
pub struct PageTracker {
    inner: Arc<Inner>,
    /// Byte offset of this view in its region.
    offset: usize,
}

/// Called on every write to a code page, on the thread that writes.
pub type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    code: Box<[AtomicU8]>,
    writes: Mutex<Vec<u64>>,
    pending: AtomicBool,
    listener: OnceLock<Listener>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("pages", &self.code.len()).finish_non_exhaustive()
    }
}

impl PageTracker {
    /// Code has been decoded from the region's page number `page`.
    pub fn set_code(&self, page: u64) {
        self.store(page, 1);
    }

    /// No decoded code is left from page number `page`.
    pub fn clear_code(&self, page: u64) {
        self.store(page, 0);
    }

    /// Whether code has been decoded from page number `page`.
    pub fn is_code(&self, page: u64) -> bool {
        usize::try_from(page).ok().and_then(|p| self.inner.code.get(p)).is_some_and(|c| c.load(Ordering::SeqCst) != 0)
    }

    /// Sets who is told of writes to code pages; only the first call counts.
    pub fn listen(&self, listener: Listener) {
        let _ = self.inner.listener.set(listener);
    }

    /// Whether a code page has been written to since [`PageTracker::take_writes`].
    pub fn has_writes(&self) -> bool {
        self.inner.pending.load(Ordering::Acquire)
    }

    /// Numbers of the code pages written to since the last call, each once.
    pub fn take_writes(&self) -> Vec<u64> {
        if !self.has_writes() {
            return Vec::new();
        }
        let mut writes = self.inner.writes.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.pending.store(false, Ordering::Release);
        std::mem::take(&mut writes)
    }

    fn store(&self, page: u64, value: u8) {
        if let Some(code) = usize::try_from(page).ok().and_then(|p| self.inner.code.get(p)) {
            code.store(value, Ordering::SeqCst);
        }
    }
}

impl Bitmap for PageTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1).and_then(|l| offset.checked_add(self.offset)?.checked_add(l)) else {
            return;
        };
        let first = (self.offset + offset) >> PAGE_SHIFT;
        for page in first..=last >> PAGE_SHIFT {
            let Some(code) = self.inner.code.get(page) else { return };
            if code.load(Ordering::SeqCst) != 0 {
                let mut writes = self.inner.writes.lock().unwrap_or_else(PoisonError::into_inner);
                if !writes.contains(&(page as u64)) {
                    writes.push(page as u64);
                }
                drop(writes);
                self.inner.pending.store(true, Ordering::Release);
                if let Some(listener) = self.inner.listener.get() {
                    listener();
                }
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = ((self.offset + offset) >> PAGE_SHIFT) as u64;
        self.inner.writes.lock().unwrap_or_else(PoisonError::into_inner).contains(&page)
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
        let pages = len.div_ceil(1 << PAGE_SHIFT);
        let code = (0..pages).map(|_| AtomicU8::new(0)).collect();
        Self { inner: Arc::new(Inner { code, ..Inner::default() }), offset: 0 }
    }
}
