//! Whether a text is YAML, and what it is at its top.

use crate::PartError;
use saphyr_parser::{Event, Parser, ScanError};

/// What a YAML document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Top {
    /// Comments only, or null.
    Nothing,
    /// With these keys, as far as they are plain words.
    Mapping(Vec<String>),
    List,
    Scalar,
}

/// Reads all of a text for mistakes. It is read event by event, so that a short text that stands for a long one (an alias of aliases)
/// takes no memory.
///
/// # Errors
/// It is no YAML, or has several documents.
pub fn top(text: &str) -> Result<Top, PartError> {
    let mut top = Top::Nothing;
    let (mut depth, mut nodes, mut documents) = (0_usize, 0_usize, 0_usize);
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| mistake(&error))?;
        // Keys and values of the mapping at the top take turns.
        let is_key = depth == 1 && nodes.is_multiple_of(2);
        match event {
            Event::DocumentStart(_) => documents += 1,
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                match (depth, &event) {
                    (0, Event::MappingStart(..)) => top = Top::Mapping(Vec::new()),
                    (0, _) => top = Top::List,
                    (1, _) => nodes += 1,
                    _ => {}
                }
                depth += 1;
            }
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            Event::Scalar(value, ..) => match (depth, &mut top) {
                (0, top) if !matches!(&*value, "" | "~" | "null") => *top = Top::Scalar,
                (1, Top::Mapping(keys)) => {
                    keys.extend(is_key.then(|| value.into_owned()));
                    nodes += 1;
                }
                _ => {}
            },
            Event::Alias(_) if depth == 1 => nodes += 1,
            _ => {}
        }
    }
    if documents > 1 { Err(PartError::Documents) } else { Ok(top) }
}

fn mistake(error: &ScanError) -> PartError {
    let at = error.marker();
    PartError::Yaml { line: at.line(), column: at.col() + 1, problem: error.info().to_owned() }
}
