//! What runs the guest's instructions, and how.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What runs the guest's instructions. Written `auto`, `kvm` or `soft`, or two of the last joined by a comma; behind `auto` and `soft` options of the
/// software CPU may follow, such as `soft,translate=off,deny=ffffffff81000000-ffffffff81000fff:401000`. In JSON it is
/// such a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that this host has; the options hold if that is the software CPU.
    Auto(SoftOptions),
    /// Hardware virtualization.
    Kvm,
    /// motu's own software CPU.
    Soft(SoftOptions),
    /// Two engines that take turns, the first one first.
    Turns(Box<[Turn; 2]>),
}

/// One of two engines that take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Kvm,
    Soft(SoftOptions),
}

/// Options of the software CPU. They change its speed and what it checks of itself, never what a guest sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftOptions {
    /// `translate=`.
    pub translate: Translate,
    /// `deny=`: linear addresses; a block of instructions that begins in one of the ranges is left to the
    /// interpreter. Written in hexadecimal, `ADDR` or `LOW-HIGH`, joined by colons.
    pub deny: Vec<RangeInclusive<u64>>,
    /// `flags=`: where arithmetic flags are those of a processor.
    pub flags: Flags,
    /// `stress=`: makes the CPU look for interrupts every few instructions, by chance from this seed.
    pub stress: Option<u64>,
}

/// Whether guest code is translated to host code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translate {
    /// Everything is interpreted.
    Off,
    /// What can be translated is.
    #[default]
    On,
    /// Every block runs on both, and the machine ends at the first difference.
    Lockstep,
}

/// Where the arithmetic flags of translated code are those of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flags {
    /// Where the program reads them before it writes them again.
    #[default]
    Live,
    /// Everywhere, which costs speed: in the images that faults and interrupts push, too.
    Exact,
}

/// A text that names no engine, or options that there are not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEngineError {
    #[error("{0:?} is no engine; the engines are auto, kvm and soft")]
    Unknown(String),
    #[error("{0:?} names {1} engines; give one, or two that take turns, such as kvm,soft")]
    TooMany(String, usize),
    #[error("auto takes no turns in {0:?}; name two of kvm and soft, such as kvm,soft or soft,soft")]
    AutoInTurns(String),
    #[error("the kvm engine has no options, so {0:?} means nothing to it; auto and soft have")]
    OptionsOfKvm(String),
    #[error(
        "{0:?} is no option of the soft engine; its options are translate=off|on|lockstep, \
         deny=ADDR:LOW-HIGH:..., flags=live|exact and stress=SEED"
    )]
    UnknownOption(String),
    #[error("the engine's option {0} is given twice; give it once")]
    Twice(&'static str),
    #[error("{0:?} is no value of translate; its values are off, on and lockstep")]
    Translate(String),
    #[error(
        "{0:?} is no address for deny; write hexadecimal linear addresses or ranges of them, the lower first, \
         joined by colons, such as 401000:7f0000000000-7f0000000fff"
    )]
    Deny(String),
    #[error("{0:?} is no value of flags; its values are live and exact")]
    Flags(String),
    #[error("{0:?} is no seed for stress; write a decimal number of at most 64 bits")]
    Stress(String),
}

impl Default for EngineChoice {
    fn default() -> Self {
        Self::Auto(SoftOptions::default())
    }
}

impl SoftOptions {
    fn parse<'a>(items: impl Iterator<Item = &'a str>) -> Result<Self, ParseEngineError> {
        let (mut translate, mut deny, mut flags, mut stress) = (None, None, None, None);
        for item in items {
            match item.split_once('=') {
                Some(("translate", value)) => once(&mut translate, "translate", value.parse()?)?,
                Some(("deny", value)) => once(&mut deny, "deny", addresses(value)?)?,
                Some(("flags", value)) => once(&mut flags, "flags", value.parse()?)?,
                Some(("stress", value)) => once(&mut stress, "stress", seed(value)?)?,
                _ => return Err(ParseEngineError::UnknownOption(item.to_owned())),
            }
        }
        let (translate, deny) = (translate.unwrap_or_default(), deny.unwrap_or_default());
        Ok(Self { translate, deny, flags: flags.unwrap_or_default(), stress })
    }
}

/// Sets `slot` to `value`, if it has none.
fn once<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), ParseEngineError> {
    if slot.replace(value).is_some() {
        return Err(ParseEngineError::Twice(name));
    }
    Ok(())
}

fn addresses(text: &str) -> Result<Vec<RangeInclusive<u64>>, ParseEngineError> {
    text.split(':').map(|item| range(item).ok_or_else(|| ParseEngineError::Deny(item.to_owned()))).collect()
}

fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let range = address(low)?..=address(high)?;
    (!range.is_empty()).then_some(range)
}

fn address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    number(digits, 16)
}

fn seed(text: &str) -> Result<u64, ParseEngineError> {
    number(text, 10).ok_or_else(|| ParseEngineError::Stress(text.to_owned()))
}

/// The standard library's parsing takes a sign.
fn number(digits: &str, radix: u32) -> Option<u64> {
    u64::from_str_radix(digits, radix).ok().filter(|_| digits.chars().all(|c| c.is_digit(radix)))
}

impl FromStr for EngineChoice {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, ParseEngineError> {
        let items: Vec<&str> = text.split(',').collect();
        let is_first = |n: usize, item: &str| n == 0 || ["auto", "kvm", "soft"].contains(&item);
        let starts: Vec<usize> =
            items.iter().enumerate().filter(|(n, item)| is_first(*n, item)).map(|(n, _)| n).collect();
        let ends = starts.iter().skip(1).copied().chain([items.len()]);
        let engines: Vec<Self> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| one(items.get(start..end).unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        let turn = |engine| match engine {
            Self::Kvm => Ok(Turn::Kvm),
            Self::Soft(options) => Ok(Turn::Soft(options)),
            Self::Auto(_) | Self::Turns(_) => Err(ParseEngineError::AutoInTurns(text.to_owned())),
        };
        let count = engines.len();
        let mut engines = engines.into_iter();
        match (engines.next(), engines.next(), engines.next()) {
            (Some(engine), None, _) => Ok(engine),
            (Some(first), Some(second), None) => Ok(Self::Turns(Box::new([turn(first)?, turn(second)?]))),
            _ => Err(ParseEngineError::TooMany(text.to_owned(), count)),
        }
    }
}

/// One engine from its name and its options.
fn one(items: &[&str]) -> Result<EngineChoice, ParseEngineError> {
    let (name, options) = items.split_first().map_or(("", items), |(name, options)| (*name, options));
    let soft = || SoftOptions::parse(options.iter().copied());
    match (name, options) {
        ("auto", _) => Ok(EngineChoice::Auto(soft()?)),
        ("soft", _) => Ok(EngineChoice::Soft(soft()?)),
        ("kvm", []) => Ok(EngineChoice::Kvm),
        ("kvm", options) => Err(ParseEngineError::OptionsOfKvm(options.join(","))),
        _ => Err(ParseEngineError::Unknown(name.to_owned())),
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto(options) => write!(f, "auto{options}"),
            Self::Kvm => f.write_str("kvm"),
            Self::Soft(options) => write!(f, "soft{options}"),
            Self::Turns(engines) => {
                let [first, second] = &**engines;
                write!(f, "{first},{second}")
            }
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("kvm"),
            Self::Soft(options) => write!(f, "soft{options}"),
        }
    }
}

/// What follows the engine's name: nothing where all is as it is by default, else each option behind a comma.
impl fmt::Display for SoftOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.translate != Translate::default() {
            write!(f, ",translate={}", self.translate)?;
        }
        for (index, range) in self.deny.iter().enumerate() {
            let (low, high) = (range.start(), range.end());
            write!(f, "{}{low:x}", if index == 0 { ",deny=" } else { ":" })?;
            if low != high {
                write!(f, "-{high:x}")?;
            }
        }
        if self.flags == Flags::Exact {
            f.write_str(",flags=exact")?;
        }
        match self.stress {
            Some(seed) => write!(f, ",stress={seed}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Translate {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, ParseEngineError> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "lockstep" => Ok(Self::Lockstep),
            _ => Err(ParseEngineError::Translate(text.to_owned())),
        }
    }
}

impl FromStr for Flags {
    type Err = ParseEngineError;

    fn from_str(text: &str) -> Result<Self, ParseEngineError> {
        match text {
            "live" => Ok(Self::Live),
            "exact" => Ok(Self::Exact),
            _ => Err(ParseEngineError::Flags(text.to_owned())),
        }
    }
}

impl fmt::Display for Translate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Lockstep => "lockstep",
        })
    }
}

impl Serialize for EngineChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EngineChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
