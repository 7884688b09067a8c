//! Threads that stay at hand from one operation to the next.
//!
//! A pass through a network is hundreds of operations of a millisecond or less, one behind the other. Rayon lets a thread
//! sleep as soon as it finds nothing to do; on a small network or a small picture, waking up took a seventh of the time. Here the
//! thread that begins an operation *leads*: it takes up tasks, and so do *helpers*, jobs on threads of rayon's current pool, which
//! look out for the next operation of the same leader for a moment before they leave the thread to the pool.
//!
//! As many threads compute, and keep scratch memory, as the pool has: where the leader is none of the pool's, the last of those
//! does not help.

use std::{
    any::Any,
    cell::Cell,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst},
    },
    thread::yield_now,
    time::{Duration, Instant},
};

use rayon::prelude::*;

use crate::parallel::part;

/// How long a helper looks out for the next operation: longer than what a pass does between two, and no more than a moment
/// for whoever else waits for the thread.
const LOOKOUT: Duration = Duration::from_micros(200);

/// How often a leader looks whether the helpers are done before it lets others run between two looks: one of them may have
/// lost its processor to somebody else.
const PATIENCE: usize = 1000;

thread_local! {
    /// Who helps when this thread leads.
    static TEAM: Arc<Team> = Arc::default();
    /// Whether this thread is at a task.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `task(0)`, `task(1)`, .. `task(tasks - 1)`, in any order, on this thread and others of the current pool.
///
/// # Panics
///
/// When a task does, after all threads have stopped.
pub(crate) fn run(tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = rayon::current_num_threads().min(tasks).saturating_sub(1);
    if helpers == 0 {
        (0..tasks).for_each(task);
    } else if AT_WORK.get() && rayon::current_thread_index().is_none() {
        // An operation within a task, on a thread that would sleep while those of the pool take it up.
        (0..tasks).for_each(task);
    } else if AT_WORK.get() {
        // The helpers are at the operation that this one is part of; what idles takes its share.
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    } else {
        let job = Job::new(task, tasks, helpers + 1);
        TEAM.with(|team| team.lead(&job, helpers));
        let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// The tasks of one operation, cut into a run for each thread: what a task reads ahead is often what the next one needs.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The first task of each run that nobody has taken up, or one past its end.
    next: Box<[AtomicUsize]>,
    /// Threads that have come.
    come: AtomicUsize,
    /// What a task of a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Job<'a> {
    fn new(task: &'a (dyn Fn(usize) + Sync), tasks: usize, threads: usize) -> Self {
        let next = (0..threads).map(|run| part(tasks, 1, threads, run).start.into()).collect();
        Self { task, tasks, next, come: AtomicUsize::new(0), panic: Mutex::new(None) }
    }

    /// Takes up tasks until none is left: those of a run of this thread's own, then what is left of the others.
    fn work(&self) {
        let _restored = Restored(AT_WORK.replace(true));
        let runs = self.next.len();
        let own = self.come.fetch_add(1, SeqCst);
        for run in (own..own + runs).map(|run| run % runs) {
            let end = part(self.tasks, 1, runs, run).end;
            loop {
                let index = self.next[run].fetch_add(1, SeqCst);
                if index >= end {
                    break;
                }
                (self.task)(index);
            }
        }
    }

    /// Leaves the tasks undone that nobody has taken up.
    fn stop(&self) {
        for next in &self.next {
            next.store(self.tasks, SeqCst);
        }
    }
}

/// Sets [`AT_WORK`] to what it was, also when a task panics.
struct Restored(bool);

impl Drop for Restored {
    fn drop(&mut self) {
        AT_WORK.set(self.0);
    }
}

/// A leader's helpers, and what they are to do.
#[derive(Default)]
struct Team {
    /// The operation that is open, or null.
    job: AtomicPtr<Job<'static>>,
    /// How many operations were opened.
    opened: AtomicUsize,
    /// Helpers that may look at the job.
    inside: AtomicUsize,
    /// Helpers that are at work or look out for it; of a leader of the pool's also those on their way.
    helpers: AtomicUsize,
    /// Threads of the pool that were called by a leader from outside, and have not come yet.
    called: AtomicUsize,
}

impl Team {
    /// Works at `job` together with up to `helpers` others, until all tasks are done.
    fn lead(self: &Arc<Self>, job: &Job<'_>, helpers: usize) {
        let open = Open::new(self, job);
        let before = self.opened.load(SeqCst).wrapping_sub(1);
        if rayon::current_thread_index().is_some() {
            while self.helpers.load(SeqCst) < helpers {
                self.helpers.fetch_add(1, SeqCst);
                let team = Arc::clone(self);
                rayon::spawn(move || team.help(before));
            }
        } else if self.helpers.load(SeqCst) < helpers && self.called.load(SeqCst) == 0 {
            let (team, threads) = (Arc::clone(self), rayon::current_num_threads());
            self.called.store(threads - 1, SeqCst);
            rayon::spawn_broadcast(move |thread| {
                if thread.index() + 1 < threads {
                    team.helpers.fetch_add(1, SeqCst);
                    team.called.fetch_sub(1, SeqCst);
                    team.help(before);
                }
            });
        }
        job.work();
        drop(open);
    }

    /// Helps with each operation that is opened after the one of number `seen`, until there is none for a while.
    fn help(&self, mut seen: usize) {
        loop {
            let opened = self.opened.load(SeqCst);
            if opened != seen {
                seen = opened;
                self.join();
            } else if !self.looks_out(seen) {
                self.helpers.fetch_sub(1, SeqCst);
                // A leader that has opened an operation since still counted on this helper.
                if self.opened.load(SeqCst) == seen {
                    return;
                }
                self.helpers.fetch_add(1, SeqCst);
            }
        }
    }

    /// Whether another operation than number `seen` is opened while it is looked out for.
    fn looks_out(&self, seen: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < LOOKOUT {
            for _ in 0..32 {
                if self.opened.load(SeqCst) != seen {
                    return true;
                }
                spin_loop();
            }
        }
        false
    }

    /// Helps with the operation that is open, if any still is.
    fn join(&self) {
        self.inside.fetch_add(1, SeqCst);
        let job = self.job.load(SeqCst);
        if !job.is_null() {
            // SAFETY: the job was open after this helper had been counted as inside, and its owner keeps it until it has
            // closed it and then found nobody inside: both sides write first and look afterwards, in one order for all
            // threads (`SeqCst`), so one of them sees the other. All that is done through it is `Sync`.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job.work())) {
                job.stop();
                *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
        self.inside.fetch_sub(1, SeqCst);
    }
}

/// An operation that helpers may join, until this is dropped.
struct Open<'a>(&'a Team);

impl<'a> Open<'a> {
    fn new(team: &'a Team, job: &Job<'_>) -> Self {
        // Only the address is kept; dropping this takes it back before the job's borrows end.
        team.job.store(ptr::from_ref(job).cast_mut().cast(), SeqCst);
        team.opened.fetch_add(1, SeqCst);
        Self(team)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.job.store(ptr::null_mut(), SeqCst);
        let mut looks = 0;
        while self.0.inside.load(SeqCst) > 0 {
            looks += 1;
            if looks < PATIENCE { spin_loop() } else { yield_now() }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::atomic::AtomicBool, thread};

    use super::*;

    /// How often each task was run.
    fn runs(tasks: usize, extra: impl Fn(usize) + Sync) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        run(tasks, &|index| {
            counts[index].fetch_add(1, SeqCst);
            extra(index);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
    }

    #[test]
    fn every_task_of_every_operation_is_run_once() {
        let operations = if cfg!(miri) { 20 } else { 20_000 };
        for operation in 0..operations {
            let tasks = operation % 7;
            assert_eq!(runs(tasks, |_| ()), vec![1; tasks], "{operation}");
        }
    }

    #[test]
    fn leaders_side_by_side_do_not_mix_up_their_tasks() {
        let operations = if cfg!(miri) { 5 } else { 2000 };
        pool(3).install(|| {
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..operations {
                            assert_eq!(runs(5, |_| ()), [1; 5]);
                        }
                    });
                }
                for _ in 0..operations {
                    assert_eq!(runs(4, |_| ()), [1; 4]);
                }
            });
        });
    }

    /// Runs an operation for `threads` threads, each of whose tasks lasts until as many are at one or that took too long, and
    /// says how many came.
    fn meet(threads: usize, patience: Duration) -> usize {
        let seen = Mutex::new(HashSet::new());
        let (at_task, met) = (AtomicUsize::new(0), AtomicBool::new(false));
        let start = Instant::now();
        run(2 * threads, &|_| {
            seen.lock().expect("no panic").insert(thread::current().id());
            let at_once = at_task.fetch_add(1, SeqCst) + 1;
            assert!(at_once <= threads, "{at_once} tasks at once on {threads} threads");
            met.fetch_or(at_once == threads, SeqCst);
            while !met.load(SeqCst) && start.elapsed() < patience {
                yield_now();
            }
            at_task.fetch_sub(1, SeqCst);
        });
        seen.into_inner().expect("no panic").len()
    }

    #[test]
    fn as_many_threads_as_the_pool_has_take_part() {
        for threads in [1, 2, 3] {
            pool(threads).install(|| {
                for _ in 0..3 {
                    assert_eq!(meet(threads, Duration::from_secs(60)), threads);
                }
            });
        }
        // From outside: the threads of this pool may be at work for other tests for a while.
        let threads = rayon::current_num_threads();
        let start = Instant::now();
        while meet(threads, Duration::from_millis(50)) < threads {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody helps");
        }
    }

    #[test]
    fn an_operation_within_a_task_is_done_too() {
        let inner = AtomicUsize::new(0);
        let outer = runs(6, |_| {
            assert_eq!(runs(3, |_| ()), [1; 3]);
            inner.fetch_add(1, SeqCst);
        });
        assert_eq!((outer, inner.into_inner()), (vec![1; 6], 6));
    }

    #[test]
    fn a_panic_of_any_thread_reaches_the_caller_and_leaves_the_team_usable() {
        pool(2).install(|| {
            let leader = thread::current().id();
            for of_leader in [true, false] {
                let helped = AtomicBool::new(false);
                let start = Instant::now();
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    run(64, &|_| {
                        let is_leader = thread::current().id() == leader;
                        helped.fetch_or(!is_leader, SeqCst);
                        assert!(is_leader != of_leader, "a task fails");
                        while !helped.load(SeqCst) && start.elapsed() < Duration::from_secs(60) {
                            yield_now();
                        }
                    });
                }));
                let panic = panicked.expect_err("a task has failed");
                assert_eq!(panic.downcast_ref::<&str>(), Some(&"a task fails"));
                assert_eq!(runs(5, |_| ()), [1; 5]);
            }
        });
    }
}
