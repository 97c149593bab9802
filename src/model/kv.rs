//! Which KV pages belong to which sequence. Uses `backend`'s page numbers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ModelError;
use crate::backend::{PAGE, PageId};

/// Page numbers of one model, with how many sequences share each.
#[derive(Debug)]
pub(crate) struct KvPool {
    limit: usize,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<PageId>,
    users: Vec<u32>, // [pages ever used]
}

impl KvPool {
    /// A pool of at most `limit` pages.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// Pages in use.
    pub(crate) fn used(&self) -> usize {
        let state = self.state();
        state.users.len() - state.free.len()
    }

    /// Pages that were used and are free now.
    pub(crate) fn free(&self) -> Vec<PageId> {
        self.state().free.clone()
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        // No code that could panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `count` new pages, or none and tells how many there are.
    fn take(&self, count: usize, pages: &mut Vec<PageId>) -> Result<(), usize> {
        let mut state = self.state();
        let available = state.free.len() + self.limit.saturating_sub(state.users.len());
        if count > available {
            return Err(available);
        }
        for _ in 0..count {
            let page = state.free.pop().unwrap_or_else(|| {
                state.users.push(0);
                PageId(state.users.len() as u32 - 1)
            });
            state.users[page.0 as usize] = 1;
            pages.push(page);
        }
        Ok(())
    }

    fn share(&self, pages: &[PageId]) {
        let mut state = self.state();
        for page in pages {
            state.users[page.0 as usize] += 1;
        }
    }

    fn release(&self, pages: &[PageId]) {
        let mut state = self.state();
        for &page in pages {
            let users = &mut state.users[page.0 as usize];
            *users -= 1;
            if *users == 0 {
                state.free.push(page);
            }
        }
    }

    fn is_shared(&self, page: PageId) -> bool {
        self.state().users[page.0 as usize] > 1
    }
}

/// The pages of one sequence and how many of their positions are written.
#[derive(Debug)]
pub(crate) struct KvSequence {
    pool: Arc<KvPool>,
    pages: Vec<PageId>,
    len: usize,
}

/// What a sequence needs before it can grow.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Pages that are new to the sequence.
    pub(crate) new: std::ops::Range<usize>,
    /// The partly written last page, if it was shared.
    pub(crate) copy: Option<PageCopy>,
}

/// A shared page and the sequence's own that took its place and must get its contents.
#[derive(Debug)]
pub(crate) struct PageCopy {
    pub(crate) from: PageId,
    pub(crate) to: PageId,
    index: usize,
}

impl KvSequence {
    pub(crate) fn new(pool: Arc<KvPool>) -> Self {
        Self { pool, pages: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    pub(crate) fn belongs_to(&self, pool: &Arc<KvPool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Makes pages for `tokens` more positions; a partly written last page becomes the sequence's own.
    pub(crate) fn grow(&mut self, entry: usize, tokens: usize) -> Result<Growth, ModelError> {
        let before = self.pages.len();
        let shared = !self.len.is_multiple_of(PAGE) && self.pool.is_shared(self.pages[self.len / PAGE]);
        let needed = (self.len + tokens).div_ceil(PAGE).saturating_sub(before);
        self.pool.take(needed + usize::from(shared), &mut self.pages).map_err(|available| {
            let (needed, limit) = (needed + usize::from(shared), self.pool.limit);
            ModelError::KvFull { entry, needed, available, limit }
        })?;
        let mut growth = Growth { new: before..before + needed, copy: None };
        if shared && let Some(own) = self.pages.pop() {
            let index = self.len / PAGE;
            let from = std::mem::replace(&mut self.pages[index], own);
            growth.copy = Some(PageCopy { from, to: own, index });
        }
        Ok(growth)
    }

    /// Lets go of the page that was copied from or, if the copy failed, of the one that was copied to.
    pub(crate) fn settle(&mut self, growth: Growth, copied: bool) {
        if let Some(PageCopy { from, to, index }) = growth.copy {
            if copied {
                self.pool.release(&[from]);
            } else {
                self.pages[index] = from;
                self.pool.release(&[to]);
            }
        }
    }

    /// `tokens` more positions are written.
    pub(crate) fn commit(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets positions from `len` on, and the pages that only they used.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let keep = self.len.div_ceil(PAGE).min(self.pages.len());
        self.pool.release(&self.pages[keep..]);
        self.pages.truncate(keep);
    }

    /// A sequence with the same contents, sharing every page.
    pub(crate) fn fork(&self) -> Self {
        let pages = self.pages[..self.len.div_ceil(PAGE)].to_vec();
        self.pool.share(&pages);
        Self { pool: Arc::clone(&self.pool), pages, len: self.len }
    }
}

impl Drop for KvSequence {
    fn drop(&mut self) {
        self.pool.release(&self.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(pool: &Arc<KvPool>, tokens: usize) -> KvSequence {
        let mut sequence = KvSequence::new(Arc::clone(pool));
        sequence.grow(0, tokens).unwrap();
        sequence.commit(tokens);
        sequence
    }

    #[test]
    fn pages_return_to_the_pool() {
        let pool = KvPool::new(4);
        let mut sequence = grown(&pool, 130);
        assert_eq!(pool.used(), 3);
        sequence.truncate(64);
        assert_eq!(pool.used(), 1);
        drop(sequence);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_full_pool_changes_nothing() {
        let pool = KvPool::new(2);
        let mut sequence = grown(&pool, 65);
        let pages = sequence.pages().to_vec();
        let error = sequence.grow(0, 64).unwrap_err();
        assert_eq!(
            error.to_string(),
            "entry 0: 1 KV pages needed, 0 free of 2; free or truncate a session, or raise the limit"
        );
        assert_eq!(sequence.pages(), pages);
        assert_eq!(sequence.len(), 65);
    }

    #[test]
    fn a_fork_shares_whole_pages_and_copies_the_one_it_writes() {
        let pool = KvPool::new(9);
        let original = grown(&pool, 100);
        let mut fork = original.fork();
        assert_eq!(pool.used(), 2);
        let growth = fork.grow(0, 1).unwrap();
        let copy = growth.copy.as_ref().unwrap();
        assert_eq!(copy.from, original.pages()[1]);
        assert_eq!(copy.to, fork.pages()[1]);
        fork.settle(growth, true);
        assert_eq!(fork.pages()[0], original.pages()[0]);
        assert_eq!(pool.used(), 3);
        drop(original);
        assert_eq!(pool.used(), 2);
    }

    #[test]
    fn a_failed_copy_leaves_the_fork_as_it_was() {
        let pool = KvPool::new(9);
        let original = grown(&pool, 100);
        let mut fork = original.fork();
        let growth = fork.grow(0, 1).unwrap();
        fork.settle(growth, false);
        assert_eq!(fork.pages(), original.pages());
        assert_eq!(pool.used(), 2);
    }

    #[test]
    fn a_fork_at_a_page_boundary_copies_nothing() {
        let pool = KvPool::new(9);
        let original = grown(&pool, 64);
        let mut fork = original.fork();
        assert!(fork.grow(0, 1).unwrap().copy.is_none());
        assert_eq!(pool.used(), 2);
    }
}
