//! What is known at one place of the code, whichever way led there.

use super::form::{Form, Place, Right, Secret, Symbol, Symbols, TlbEntry, Version};
use std::collections::BTreeMap;

/// What the flags are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flags {
    Unknown,
    /// As a comparison of two 64-bit values leaves them.
    Compared(Form, Form),
    /// As a test of a 64-bit value with a constant leaves them.
    Tested(Form, u64),
}

/// A page that was found in the TLB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address whose entry it is.
    pub of: Form,
    /// The least and the greatest distance from the page's beginning that this address has.
    pub least: i64,
    pub greatest: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub registers: [Form; 16],
    /// Words of the frame that differ from what they were at the entrance.
    pub words: BTreeMap<i32, Form>,
    /// Entries with a right whose tag is the page of the address that they serve.
    pub found: BTreeMap<(TlbEntry, Right), Found>,
    /// Values that are multiples of a power of two.
    pub aligned: BTreeMap<Form, u64>,
    pub flags: Flags,
    pub version: Version,
    /// The exit that is noted in the frame, if it is always the same.
    pub exit: Option<u32>,
    /// A way may lead here.
    pub reachable: bool,
}

impl State {
    pub fn at_entrance() -> Self {
        Self {
            registers: std::array::from_fn(|n| Form::entry(Place::Register(n as u8))),
            words: BTreeMap::new(),
            found: BTreeMap::new(),
            aligned: BTreeMap::new(),
            flags: Flags::Unknown,
            version: Version::Entry,
            exit: None,
            reachable: true,
        }
    }

    pub fn get(&self, place: Place) -> Form {
        match place {
            Place::Register(number) => self.registers[usize::from(number)].clone(),
            Place::Word(word) => self.words.get(&word).cloned().unwrap_or_else(|| Form::entry(place)),
        }
    }

    pub fn set(&mut self, place: Place, form: Form) {
        match place {
            Place::Register(number) => self.registers[usize::from(number)] = form,
            Place::Word(word) => drop(self.words.insert(word, form)),
        }
    }

    /// Whether anything but `place` is known in terms of `symbol`.
    pub fn depends_on(&self, symbol: Symbol, place: Place) -> bool {
        let registers = self.registers.iter().enumerate().map(|(n, form)| (Place::Register(n as u8), form));
        let words = self.words.iter().map(|(&word, form)| (Place::Word(word), form));
        registers.chain(words).any(|(at, form)| at != place && form.mentions(symbol))
            || self.found.values().any(|found| found.of.mentions(symbol))
    }

    /// Forgets what was known of values that depend on a symbol: it stands for another one now.
    pub fn renew(&mut self, symbols: &Symbols, is: impl Fn(Symbol) -> bool) {
        self.aligned.retain(|form, _| !symbols.depends(form, &is));
    }

    /// Places that hold what they did on one of the ways that meet at offset `at`.
    pub fn joined(&self, at: u32) -> impl Iterator<Item = Place> {
        let registers = self.registers.iter().enumerate().map(|(n, form)| (Place::Register(n as u8), form));
        let words = self.words.iter().map(|(&word, form)| (Place::Word(word), form));
        let is = move |place, form: &Form| matches!(form.symbol(), Some(Symbol::Join(of, in_place, _)) if of == at && in_place == place);
        registers.chain(words).filter(move |&(place, form)| is(place, form)).map(|(place, _)| place)
    }

    /// A place may hold anything at offset `at`.
    pub fn forget(&mut self, place: Place, at: u32, symbols: &Symbols) {
        let secret = symbols.is_secret(&self.get(place));
        self.set(place, Symbol::Join(at, place, secret).into());
    }

    /// Makes this what is known if `other` may be the state as well, at offset `at`.
    pub fn join(&mut self, other: &Self, at: u32, symbols: &Symbols) {
        let words = self.words.keys().chain(other.words.keys()).map(|&word| Place::Word(word));
        let places: Vec<Place> = words.chain((0..16).map(Place::Register)).collect();
        for place in places {
            let (ours, theirs) = (self.get(place), other.get(place));
            if ours != theirs {
                let secret: Secret = symbols.is_secret(&ours) || symbols.is_secret(&theirs);
                self.set(place, Symbol::Join(at, place, secret).into());
            }
        }
        self.found.retain(|key, found| match other.found.get(key) {
            Some(theirs) if theirs.of == found.of => {
                found.least = found.least.min(theirs.least);
                found.greatest = found.greatest.max(theirs.greatest);
                true
            }
            _ => false,
        });
        self.aligned.retain(|form, to| {
            *to = other.aligned.get(form).map_or(1, |&theirs| theirs.min(*to));
            *to > 1
        });
        if self.flags != other.flags {
            self.flags = Flags::Unknown;
        }
        if self.exit != other.exit {
            self.exit = None;
        }
        if self.version != other.version {
            self.version = Version::Join(at);
        }
    }
}
