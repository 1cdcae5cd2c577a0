//! The agent's jobs: started, watched, started anew when they fail, and ended together.
//!
//! A job that fails or panics is told, counted and begun again after a pause; the others don't notice. One that does not
//! show signs of life for longer than it may is told by [`Health`]. Owns no work of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

/// Pause before a failed job's first new beginning; twice as long after each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause, and how long a job must have gone well to be taken for well again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// All jobs.
#[derive(Debug, Default)]
pub struct Jobs {
    running: JoinSet<()>,
    shutdown: CancellationToken,
    health: Arc<Health>,
}

impl Jobs {
    /// How they are.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Fires when all jobs are to end.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a job. `begin` makes its work, and makes it anew after a failure; a work that ends well is done. It must end
    /// soon after the shutdown, and show signs of life at least every `patience`.
    pub fn start<W>(
        &mut self,
        name: &'static str,
        patience: Duration,
        begin: impl Fn(Pulse) -> W + Send + 'static,
    ) where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let job = self.health.add(name, patience);
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let begun = Instant::now();
                let pulse = Pulse { job: Arc::clone(&job), shutdown: shutdown.clone() };
                pulse.beat();
                // In a task of its own, where a panic ends that task.
                let what = match tokio::spawn(begin(pulse)).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(error) => error.to_string(),
                };
                job.failures.fetch_add(1, Ordering::Relaxed);
                if begun.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                error!("{name}: {what}; beginning again in {} s", pause.as_secs());
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => break,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            job.is_done.store(1, Ordering::Relaxed);
            debug!("{name}: ended");
        });
    }

    /// Tells all jobs to end and waits until they have, but no longer than `patience`. Whether they have.
    pub async fn end(mut self, patience: Duration) -> bool {
        self.shutdown.cancel();
        let all = async { while self.running.join_next().await.is_some() {} };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

/// What a job gets to work with.
#[derive(Clone, Debug)]
pub struct Pulse {
    job: Arc<Job>,
    shutdown: CancellationToken,
}

impl Pulse {
    /// Shows a sign of life.
    pub fn beat(&self) {
        *self.job.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the agent ends.
    pub fn is_shut_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// What `work` comes to; `None` if the agent ends first.
    pub async fn unless_shut_down<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            result = work => Some(result),
        }
    }
}

/// One job.
#[derive(Debug)]
struct Job {
    patience: Duration,
    last_beat: Mutex<Instant>,
    failures: AtomicU64,
    is_done: AtomicU64,
}

impl Job {
    /// What is wrong with it, if anything is.
    fn complaint(&self) -> Option<String> {
        let silent = self.last_beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let is_done = self.is_done.load(Ordering::Relaxed) != 0;
        (silent > self.patience && !is_done).then(|| format!("no sign of life for {} s", silent.as_secs()))
    }
}

/// How the jobs are.
#[derive(Debug, Default)]
pub struct Health {
    jobs: Mutex<BTreeMap<&'static str, Arc<Job>>>,
}

/// How one job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHealth {
    /// Its name.
    pub name: &'static str,
    /// How often it failed.
    pub failures: u64,
    /// What is wrong with it now, if anything is.
    pub complaint: Option<String>,
}

impl Health {
    fn add(&self, name: &'static str, patience: Duration) -> Arc<Job> {
        let job = Arc::new(Job {
            patience,
            last_beat: Mutex::new(Instant::now()),
            failures: AtomicU64::new(0),
            is_done: AtomicU64::new(0),
        });
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&job));
        job
    }

    /// All jobs, by name.
    pub fn jobs(&self) -> Vec<JobHealth> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(name, job): (&&'static str, &Arc<Job>)| JobHealth {
            name,
            failures: job.failures.load(Ordering::Relaxed),
            complaint: job.complaint(),
        };
        jobs.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_job_that_fails_begins_again_and_the_others_go_on() {
        let mut jobs = Jobs::default();
        let (steady, failing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&steady);
        jobs.start("steady", LONG, move |pulse| {
            let count = Arc::clone(&count);
            async move {
                let mut ticks = tokio::time::interval(Duration::from_secs(1));
                while pulse.unless_shut_down(ticks.tick()).await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        let count = Arc::clone(&failing);
        jobs.start("failing", LONG, move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            async move { if number == 0 { panic!("as a test") } else { bail!("as a test") } }
        });
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(steady.load(Ordering::Relaxed) >= 100);
        // After 1, 3, 7, 15, 31, 63 s.
        assert_eq!(failing.load(Ordering::Relaxed), 7);
        let health = jobs.health().jobs();
        assert_eq!(
            health.iter().map(|job| (job.name, job.failures)).collect::<Vec<_>>(),
            [("failing", 7), ("steady", 0)]
        );
        assert!(jobs.end(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_does_not_end_is_not_waited_for() {
        let mut jobs = Jobs::default();
        jobs.start("deaf", LONG, |_| std::future::pending());
        assert!(!jobs.end(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn silence_is_told_and_an_end_is_no_silence() {
        let mut jobs = Jobs::default();
        jobs.start("silent", Duration::from_millis(20), |pulse| async move {
            pulse.unless_shut_down(std::future::pending::<()>()).await;
            Ok(())
        });
        jobs.start("done", Duration::from_millis(20), |_| std::future::ready(Ok(())));
        jobs.start("patient", LONG, |_| std::future::pending());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let complaints: Vec<_> = jobs
            .health()
            .jobs()
            .into_iter()
            .filter(|job| job.complaint.is_some())
            .map(|job| job.name)
            .collect();
        assert_eq!(complaints, ["silent"]);
    }
}
