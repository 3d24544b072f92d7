//! Whose turn it is.
//!
//! Owns: the order of those who wait. Leaves to others: waking them (`limiter`). Pure. Invariants: the highest priority
//! goes first, the first come of it first. One that was passed over [`PATIENCE`] times by higher ones goes next, so that
//! a flood of high ones slows low ones down and never stops them.

use std::collections::VecDeque;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Traffic goes to the wrong place until it is made: registering and deregistering targets.
    Targets,
    /// Somebody waits for it: making, changing and deleting load balancers.
    Provisioning,
    /// Nobody waits: listings of everything, looking for drift.
    Background,
}

impl Priority {
    /// All of them, the highest first.
    pub const ALL: [Self; 3] = [Self::Targets, Self::Provisioning, Self::Background];

    /// The value of label `priority` in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Targets => "targets",
            Self::Provisioning => "provisioning",
            Self::Background => "background",
        }
    }
}

/// How often the first of a queue is passed over by higher ones.
pub(crate) const PATIENCE: u32 = 10;

#[derive(Debug)]
pub(crate) struct Queue<T> {
    classes: [Class<T>; 3],
}

#[derive(Debug)]
struct Class<T> {
    waiting: VecDeque<T>,
    passed_over: u32,
}

impl<T: PartialEq> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { classes: Priority::ALL.map(|_| Class { waiting: VecDeque::new(), passed_over: 0 }) }
    }

    pub(crate) fn push(&mut self, priority: Priority, ticket: T) {
        self.classes[priority as usize].waiting.push_back(ticket);
    }

    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<&T> {
        let waiting = || self.classes.iter().filter(|class| !class.waiting.is_empty());
        let impatient = waiting().find(|class| class.passed_over >= PATIENCE);
        impatient.or_else(|| waiting().next()).and_then(|class| class.waiting.front())
    }

    /// The first has had its turn.
    pub(crate) fn served(&mut self, priority: Priority, ticket: &T) {
        self.remove(priority, ticket);
        for (class, of) in self.classes.iter_mut().zip(Priority::ALL) {
            if of == priority || class.waiting.is_empty() {
                class.passed_over = 0;
            } else if of > priority {
                class.passed_over += 1;
            }
        }
    }

    /// One that waits no longer.
    pub(crate) fn remove(&mut self, priority: Priority, ticket: &T) {
        let class = &mut self.classes[priority as usize];
        if let Some(place) = class.waiting.iter().position(|waiting| waiting == ticket) {
            class.waiting.remove(place);
        }
    }

    pub(crate) fn waiting(&self, priority: Priority) -> usize {
        self.classes[priority as usize].waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn serve(queue: &mut Queue<(Priority, u32)>) -> Option<(Priority, u32)> {
        let first = *queue.first()?;
        queue.served(first.0, &first);
        Some(first)
    }

    #[test]
    fn the_highest_goes_first_and_among_equals_the_first_come() {
        let mut queue = Queue::new();
        for (number, priority) in
            [Priority::Background, Priority::Provisioning, Priority::Targets, Priority::Targets]
                .into_iter()
                .enumerate()
        {
            queue.push(priority, (priority, u32::try_from(number).unwrap()));
        }
        let order: Vec<u32> = std::iter::from_fn(|| serve(&mut queue)).map(|(_, number)| number).collect();
        assert_eq!(order, [2, 3, 1, 0]);
    }

    proptest! {
        #[test]
        fn nobody_waits_for_ever_under_a_flood_of_higher_ones(before in 0_u32..50) {
            let mut queue = Queue::new();
            for number in 0..before {
                queue.push(Priority::Targets, (Priority::Targets, number));
            }
            queue.push(Priority::Provisioning, (Priority::Provisioning, 0));
            queue.push(Priority::Background, (Priority::Background, 0));
            let mut served = Vec::new();
            for number in 0..3 * PATIENCE {
                queue.push(Priority::Targets, (Priority::Targets, 1_000 + number));
                served.push(serve(&mut queue).unwrap().0);
            }
            prop_assert!(served.contains(&Priority::Provisioning) && served.contains(&Priority::Background));
            let targets = served.iter().filter(|priority| **priority == Priority::Targets).count();
            prop_assert_eq!(targets, served.len() - 2);
        }
    }
}
