//! What a CPU tells is told by the CPUs of both engines: of the same listener.

use motu_hv::{GuestSample, Profiler, RecentInstruction, TracedEvent, Tracer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A listener that two CPUs have, of which one runs at a time.
pub struct Both<T: ?Sized>(Arc<Mutex<Box<T>>>);

impl<T: ?Sized> Both<T> {
    pub fn new(listener: Box<T>) -> [Self; 2] {
        let listener = Arc::new(Mutex::new(listener));
        [Self(Arc::clone(&listener)), Self(listener)]
    }

    fn get(&self) -> MutexGuard<'_, Box<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer for Both<dyn Tracer> {
    fn wants_instructions(&self) -> bool {
        self.get().wants_instructions()
    }

    fn instruction(&mut self, instruction: &RecentInstruction) {
        self.get().instruction(instruction);
    }

    fn event(&mut self, event: &TracedEvent) {
        self.get().event(event);
    }
}

impl Profiler for Both<dyn Profiler> {
    fn sample(&mut self, sample: &GuestSample<'_>) {
        self.get().sample(sample);
    }
}
