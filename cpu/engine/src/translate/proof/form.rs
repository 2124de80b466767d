//! What a word is known to be: sums of symbols.

use std::collections::HashMap;

/// Where code keeps a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A general register by its number.
    Register(u8),
    /// A word of the frame by its displacement, a multiple of eight.
    Word(i32),
}

/// A value that is nothing but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// What a place held when the code was entered.
    Entry(Place),
    /// What a place holds where ways meet, at an offset of the code.
    Join(u32, Place, Secret),
    /// What the instruction there left in a place.
    Result(u32, Place, Secret),
    /// What [`Symbols`] have a definition of.
    Defined(u32),
}

/// Whether a value may tell of the host's addresses.
pub type Secret = bool;

/// Which contents of the TLB a word was read from: those at the beginning, or after a change at an offset of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Entry,
    Call(u32),
    Join(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    Read,
    Write,
}

/// An entry of the TLB: at which displacement of the frame, and when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlbEntry {
    pub at: Form,
    pub version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Definition {
    /// `width` bits of `of` from bit `low` on, moved to bit `shift`.
    Bits {
        of: Form,
        low: u32,
        width: u32,
        shift: u32,
    },
    Rotated {
        of: Form,
        right: u32,
    },
    /// The lower 32 bits.
    Low(Form),
    Tag(TlbEntry, Right),
    /// Of a slot: up to where an operand may begin.
    Limit(TlbEntry),
    /// What to add to an address in the entry's page to have where the host has it.
    Addend(TlbEntry),
}

/// A sum of symbols with factors, and a constant, modulo 2^64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form {
    /// Sorted; no factor is zero.
    pub terms: Vec<(Symbol, u64)>,
    pub constant: u64,
}

impl Form {
    pub fn constant(constant: u64) -> Self {
        Self { terms: Vec::new(), constant }
    }

    pub fn entry(place: Place) -> Self {
        Symbol::Entry(place).into()
    }

    /// Its value, if it depends on nothing.
    pub fn value(&self) -> Option<u64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// `self` + `factor` * `other`.
    pub fn plus(&self, other: &Self, factor: u64) -> Self {
        let mut sum = self.clone();
        sum.constant = sum.constant.wrapping_add(other.constant.wrapping_mul(factor));
        for &(symbol, times) in &other.terms {
            let times = times.wrapping_mul(factor);
            match sum.terms.binary_search_by_key(&symbol, |term| term.0) {
                Ok(at) => sum.terms[at].1 = sum.terms[at].1.wrapping_add(times),
                Err(at) => sum.terms.insert(at, (symbol, times)),
            }
        }
        sum.terms.retain(|term| term.1 != 0);
        sum
    }

    pub fn minus(&self, other: &Self) -> Self {
        self.plus(other, u64::MAX)
    }

    pub fn add(&self, constant: i64) -> Self {
        Self { constant: self.constant.wrapping_add(constant as u64), ..self.clone() }
    }

    pub fn mentions(&self, symbol: Symbol) -> bool {
        self.terms.iter().any(|term| term.0 == symbol)
    }

    /// The symbol, if it is one and nothing else.
    pub fn symbol(&self) -> Option<Symbol> {
        match *self.terms {
            [(symbol, 1)] if self.constant == 0 => Some(symbol),
            _ => None,
        }
    }
}

impl From<Symbol> for Form {
    fn from(symbol: Symbol) -> Self {
        Self { terms: vec![(symbol, 1)], constant: 0 }
    }
}

/// The definitions of one block.
#[derive(Default)]
pub struct Symbols {
    known: Vec<Definition>,
    numbers: HashMap<Definition, u32>,
}

impl Symbols {
    pub fn define(&mut self, definition: Definition) -> Form {
        let next = self.known.len() as u32;
        let number = *self.numbers.entry(definition.clone()).or_insert(next);
        if number == next {
            self.known.push(definition);
        }
        Symbol::Defined(number).into()
    }

    pub fn definition(&self, symbol: Symbol) -> Option<&Definition> {
        match symbol {
            Symbol::Defined(number) => self.known.get(number as usize),
            _ => None,
        }
    }

    /// The bits that `mask`, which is one run of ones, selects, at their place. Nothing if bits are among them that are
    /// not known in order.
    pub fn masked(&mut self, form: &Form, mask: u64) -> Option<Form> {
        let (first, count) = run_of_ones(mask)?;
        // Of what has been rotated, bits of what it was; nothing else is looked into, so that the same bits of the same
        // value are always the same.
        let (of, right) = match form.symbol().and_then(|symbol| self.definition(symbol)) {
            Some(Definition::Rotated { of, right }) => (of.clone(), *right),
            _ => (form.clone(), 0),
        };
        let low = right + first;
        (low + count <= 64).then(|| self.define(Definition::Bits { of, low, width: count, shift: first }))
    }

    /// The same bits, brought down to bit 0 (PEXT).
    pub fn extracted(&mut self, form: &Form, mask: u64) -> Option<Form> {
        let (low, width) = run_of_ones(mask)?;
        Some(self.define(Definition::Bits { of: form.clone(), low, width, shift: 0 }))
    }

    pub fn rotated(&mut self, form: &Form, right: u32) -> Form {
        let left = (64 - right) % 64;
        match form.symbol().and_then(|symbol| self.definition(symbol)).cloned() {
            Some(Definition::Bits { of, low, width, shift }) if left < 16 && shift + width + left <= 64 => {
                self.define(Definition::Bits { of, low, width, shift: shift + left })
            }
            _ => self.define(Definition::Rotated { of: form.clone(), right }),
        }
    }

    /// The lowest and the highest value, if they are below 2^32.
    pub fn range(&self, form: &Form) -> Option<(i64, i64)> {
        let constant = i64::from(i32::try_from(form.constant as i64).ok()?);
        let mut high = constant;
        for &(symbol, factor) in &form.terms {
            let Some(Definition::Bits { width, shift, .. }) = self.definition(symbol) else { return None };
            if *width >= 32 || *shift >= 32 || factor >= 1 << 16 {
                return None;
            }
            high = high.checked_add((((1i64 << width) - 1) << shift).checked_mul(factor as i64)?)?;
        }
        Some((constant, high))
    }

    /// A power of two that all of the values are multiples of.
    pub fn alignment(&self, form: &Form) -> u64 {
        let lowest = |value: u64| if value == 0 { 1 << 32 } else { value & value.wrapping_neg() };
        let terms = form.terms.iter().map(|&(symbol, factor)| match self.definition(symbol) {
            Some(Definition::Bits { shift, .. }) => lowest(factor) << shift.min(&31),
            _ => lowest(factor),
        });
        terms.fold(lowest(form.constant), u64::min)
    }

    /// Whether a form is made of any such symbol.
    pub fn depends(&self, form: &Form, is: &impl Fn(Symbol) -> bool) -> bool {
        form.terms.iter().any(|&(symbol, _)| {
            is(symbol)
                || self.definition(symbol).is_some_and(|definition| match definition {
                    Definition::Bits { of, .. } | Definition::Rotated { of, .. } | Definition::Low(of) => {
                        self.depends(of, is)
                    }
                    Definition::Tag(entry, _) | Definition::Limit(entry) | Definition::Addend(entry) => {
                        self.depends(&entry.at, is)
                    }
                })
        })
    }

    /// The form without tags of the TLB, which are multiples of a page.
    pub fn without_tags(&self, form: &Form) -> Form {
        let is_tag = |symbol| matches!(self.definition(symbol), Some(Definition::Tag(..)));
        let terms = form.terms.iter().copied().filter(|&(symbol, _)| !is_tag(symbol)).collect();
        Form { terms, ..*form }
    }

    pub fn is_secret(&self, form: &Form) -> Secret {
        form.terms.iter().any(|term| self.is_secret_symbol(term.0))
    }

    fn is_secret_symbol(&self, symbol: Symbol) -> Secret {
        match symbol {
            Symbol::Entry(place) => !super::words::is_guests(place),
            Symbol::Join(.., secret) | Symbol::Result(.., secret) => secret,
            Symbol::Defined(_) => match self.definition(symbol) {
                Some(Definition::Bits { of, .. } | Definition::Rotated { of, .. } | Definition::Low(of)) => {
                    self.is_secret(of)
                }
                Some(Definition::Tag(..) | Definition::Limit(_) | Definition::Addend(_)) | None => true,
            },
        }
    }

    pub fn describe(&self, form: &Form) -> String {
        let mut text = String::new();
        for &(symbol, factor) in &form.terms {
            text += &match self.definition(symbol) {
                Some(Definition::Bits { of, low, width, shift }) => {
                    format!("bits({}, {low}+{width}, at {shift})", self.describe(of))
                }
                Some(Definition::Rotated { of, right }) => format!("ror({}, {right})", self.describe(of)),
                Some(Definition::Low(of)) => format!("low({})", self.describe(of)),
                Some(Definition::Tag(entry, right)) => format!("{right:?}-tag[{}]", self.describe(&entry.at)),
                Some(Definition::Limit(entry)) => format!("limit[{}]", self.describe(&entry.at)),
                Some(Definition::Addend(entry)) => format!("addend[{}]", self.describe(&entry.at)),
                None => format!("{symbol:?}"),
            };
            text += &format!(" * {} + ", factor as i64);
        }
        text + &format!("{:#x}", form.constant as i64)
    }
}

/// The first of the ones, and how many, if they stand together.
fn run_of_ones(mask: u64) -> Option<(u32, u32)> {
    let (first, count) = (mask.trailing_zeros(), mask.count_ones());
    (mask != 0 && first + count + mask.leading_zeros() == 64).then_some((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_equal_if_they_are_the_same() {
        let [a, b] = [0, 1].map(|n| Form::entry(Place::Register(n)));
        let sum = a.plus(&b, 4).add(-8);
        assert_eq!(sum.minus(&b.plus(&b, 3)), a.add(-8));
        assert_eq!(sum.minus(&sum).value(), Some(0));
    }

    #[test]
    fn both_ways_to_find_an_entry_are_the_same_bits() {
        let mut symbols = Symbols::default();
        let address = Form::entry(Place::Register(10));
        let rotated = symbols.rotated(&address, 7);
        let one = symbols.masked(&rotated, 0xfff << 5).unwrap();
        let extracted = symbols.extracted(&address, 0xfff << 12).unwrap();
        assert_eq!(one, symbols.rotated(&extracted, 59));
        assert_eq!(symbols.range(&one), Some((0, 0xfff << 5)));
        assert_eq!(symbols.alignment(&one), 32);
        assert_eq!(symbols.masked(&rotated, 1 << 60), None, "bit 60 is one of the lowest");
    }
}
