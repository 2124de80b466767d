//! What a comparison with a word of the TLB tells.

use super::form::{Definition, Form, Right, TlbEntry};
use super::state::{Found, State};
use super::walk::Proof;
use super::words;
use crate::mmu::{PAGE, index_of};
use crate::translate::slots::Site;

impl Proof<'_> {
    /// `a` + `more` is not above `b`, as numbers without a sign.
    pub fn learn_at_most(&mut self, state: &mut State, a: &Form, b: &Form, more: i64) {
        if let Some(limit) = b.value().and_then(|limit| i64::try_from(limit).ok()).filter(|&limit| limit >= more) {
            self.learn(state, a, 0, limit - more);
        }
    }

    /// `a` is less than `b`: if they are an address less a slot's beginning, and its limit, the slot has an operand there.
    pub fn learn_slot(&mut self, state: &mut State, a: &Form, b: &Form) {
        let Some(Definition::Limit(entry)) = b.symbol().and_then(|symbol| self.symbols.definition(symbol)) else {
            return;
        };
        let entry = entry.clone();
        let Some(site) = self.site(&entry) else { return };
        let begin = self.symbols.define(Definition::Tag(entry.clone(), words::right(site)));
        self.found_by_slot(state, entry, a.plus(&begin, 1));
    }

    /// A slot, or the TLB in its place, has all of an operand at `address`: as if that was in one page, at most so far behind its
    /// beginning that there is room for the operand.
    pub fn found_by_slot(&mut self, state: &mut State, entry: TlbEntry, address: Form) {
        let Some(site) = self.site(&entry) else { return };
        let greatest = PAGE as i64 - i64::from(site.bytes);
        state.found.insert((entry, words::right(site)), Found { of: address, least: 0, greatest });
    }

    fn site(&self, entry: &TlbEntry) -> Option<&Site> {
        self.sites.get(&words::slot(entry.at.value()? as i64)?.0)
    }

    pub fn learn_equal(&mut self, state: &mut State, a: &Form, b: &Form) {
        let difference = a.minus(b);
        self.learn(state, &difference, 0, 0);
        let bits = difference.symbol().and_then(|symbol| self.symbols.definition(symbol));
        let Some(Definition::Bits { of, low, width, .. }) = bits.cloned() else { return };
        if low == 0 {
            self.learn_multiple(state, &of, 1 << width.min(12));
        }
        if low + width == 64 && low > 0 {
            self.learn(state, &of, 0, (1i64 << low) - 1);
        }
    }

    /// `form` is a multiple of a power of two: of a page at most, as tags are.
    fn learn_multiple(&mut self, state: &mut State, form: &Form, of: u64) {
        let known = state.aligned.entry(self.symbols.without_tags(form)).or_insert(of);
        *known = of.max(*known);
    }

    /// The bits of `mask` are clear in `form`.
    pub fn learn_clear(&mut self, state: &mut State, form: &Form, mask: u64) {
        // All above some bit, and the lowest few.
        let lowest = mask.trailing_ones();
        let above = 64 - mask.leading_ones();
        if lowest > 0 {
            self.learn_multiple(state, form, 1 << lowest.min(12));
        }
        if lowest < above && above < 63 {
            self.learn(state, form, 0, (1i64 << above) - (1i64 << lowest));
        }
    }

    /// `form` is between `low` and `high`. If it is an address less the tag of the entry that serves it, the tag is
    /// that address's page: no other tag in the entry is within a page of it.
    fn learn(&mut self, state: &mut State, form: &Form, low: i64, high: i64) {
        let page = PAGE as i64;
        let tags: Vec<(u64, TlbEntry, Right)> = form
            .terms
            .iter()
            .filter_map(|&(symbol, factor)| match self.symbols.definition(symbol) {
                Some(Definition::Tag(entry, right)) => Some((factor, entry.clone(), *right)),
                _ => None,
            })
            .collect();
        let [(factor, entry, right)] = &tags[..] else { return };
        let tag = self.symbols.define(Definition::Tag(entry.clone(), *right));
        let (address, low, high) = match *factor {
            u64::MAX => (form.plus(&tag, 1), low, high),
            1 => (Form::constant(0).minus(&form.minus(&tag)), -high, -low),
            _ => return,
        };
        let Some(of) = self.served(entry, &address) else { return };
        let Some(past) = address.minus(&of).value().and_then(|past| i32::try_from(past as i64).ok()) else { return };
        let (least, greatest) = (low - i64::from(past), high - i64::from(past));
        if least < -page || greatest >= 2 * page {
            return;
        }
        let (mut least, mut greatest) = (least.max(0), greatest.min(page - 1));
        if let Some(constant) = of.value() {
            let inside = (constant % PAGE) as i64;
            (least, greatest) = (least.max(inside), greatest.min(inside));
        }
        // Nothing leads here if there is no such distance.
        state.reachable &= least <= greatest;
        let key = (entry.clone(), *right);
        let found = state.found.entry(key).or_insert(Found { of: of.clone(), least, greatest });
        if found.of == of {
            (found.least, found.greatest) = (found.least.max(least), found.greatest.min(greatest));
        } else {
            *found = Found { of, least, greatest };
        }
    }

    /// The address that an entry of this privilege's array serves, given the one that it was compared with.
    fn served(&self, entry: &TlbEntry, compared: &Form) -> Option<Form> {
        let array = words::tlb(self.mode.user);
        let index = entry.at.add(-array.start);
        let size = words::ENTRY as u64;
        if let Some(at) = index.value() {
            let address = compared.value()?;
            return (index_of(address) as u64 * size == at).then(|| Form::constant(address));
        }
        match self.symbols.definition(index.symbol()?) {
            Some(Definition::Bits { of, low, width, shift }) => {
                let entries = (array.end - array.start) as u64 / size;
                let whole = *low == PAGE.trailing_zeros()
                    && *width == entries.trailing_zeros()
                    && *shift == size.trailing_zeros();
                whole.then(|| of.clone())
            }
            _ => None,
        }
    }
}
