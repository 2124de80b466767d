//! Names that a person may have meant.

/// Most that are suggested.
const MOST: usize = 3;

/// Those of `known` that are near to `text`, the nearest first. A tag `latest` may be left out.
pub(crate) fn near(text: &str, known: &[String]) -> Vec<String> {
    let mut found: Vec<(usize, &str)> = known
        .iter()
        .map(|name| name.strip_suffix(":latest").unwrap_or(name))
        .filter_map(|name| {
            let last = name.rsplit('/').next().unwrap_or(name);
            let repository = last.split(':').next().unwrap_or(last);
            let far = [name, last, repository].into_iter().map(|name| distance(text, name)).min()?;
            // A third of what was typed may be wrong.
            (far <= text.chars().count().div_ceil(3)).then_some((far, name))
        })
        .collect();
    found.sort();
    found.into_iter().take(MOST).map(|(_, name)| name.to_owned()).collect()
}

/// Characters to put in, leave out, replace or swap with their neighbour to make one text of the other (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut last = None;
    for (i, a) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&row, j) + usize::from(a != *b)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = j.checked_sub(1).and_then(|k| other.get(k)) == Some(&a) && last == Some(*b);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        (before, row) = (row, next);
        last = Some(a);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_one_step() {
        for (one, other, steps) in
            [("debian", "debian", 0), ("debain", "debian", 1), ("debin", "debian", 1), ("", "ab", 2), ("abc", "", 3)]
        {
            assert_eq!(distance(one, other), steps, "{one} {other}");
        }
    }

    #[test]
    fn near_names_are_found_by_any_part() {
        let known: Vec<String> =
            ["debian:latest", "debian:sid", "alpine:3.20", "ghcr.io/o/app:v1"].map(str::to_owned).into();
        assert_eq!(near("debain", &known), ["debian", "debian:sid"]);
        assert_eq!(near("alpine", &known), ["alpine:3.20"]);
        assert_eq!(near("app", &known), ["ghcr.io/o/app:v1"]);
        assert!(near("windows", &known).is_empty());
    }
}
