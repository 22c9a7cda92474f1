//! Small vocabularies of the kernel: id lists (`0-3,8`), device numbers (`8:0`) and device rules (`c 1:3 rwm`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A set of CPUs or memory nodes in the kernel's list format; prints in its shortest form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdSet(BTreeSet<u32>);

impl IdSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn is_superset(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }
}

impl FromStr for IdSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HOW: &str = "a list of numbers and ranges, as in \"0-3,8\"";
        let number = |s: &str| s.trim().parse::<u32>().ok().filter(|n| *n < 65_536).ok_or_else(|| HOW.to_owned());
        let mut ids = BTreeSet::new();
        for part in text.trim().split(',').filter(|p| !p.trim().is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((a, b)) => (number(a)?, number(b)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(HOW.into());
            }
            ids.extend(first..=last);
        }
        Ok(Self(ids))
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek() == Some(&(last + 1)) {
                last += 1;
                rest.next();
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

/// A block device by number, `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DevId(pub u32, pub u32);

impl FromStr for DevId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once(':')
            .and_then(|(major, minor)| Some(Self(major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| "a device number `major:minor` as lsblk shows it, such as \"8:0\"".into())
    }
}

impl fmt::Display for DevId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// One device access of v1's devices controller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceRule {
    /// `a`: every device, every access.
    All,
    /// Type `b` or `c`, numbers or `*`, accesses in the kernel's order `rwm`.
    One { kind: char, numbers: String, access: String },
}

impl FromStr for DeviceRule {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let (kind, numbers, access) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("a"), None, None, None) | (Some("a"), Some("*:*"), Some("rwm"), None) => return Ok(Self::All),
            (Some(kind), Some(numbers), Some(access), None) => (kind, numbers, access),
            _ => return Err(()),
        };
        let kind = kind.chars().next().filter(|k| kind.len() == 1 && matches!(k, 'b' | 'c')).ok_or(())?;
        let number = |n: &str| n == "*" || n.parse::<u32>().is_ok();
        let (major, minor) = numbers.split_once(':').ok_or(())?;
        let letters = !access.is_empty() && access.chars().all(|c| "rwm".contains(c));
        if !number(major) || !number(minor) || !letters {
            return Err(());
        }
        let access = "rwm".chars().filter(|c| access.contains(*c)).collect();
        Ok(Self::One { kind, numbers: numbers.into(), access })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("a"),
            Self::One { kind, numbers, access } => write!(f, "{kind} {numbers} {access}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let set: IdSet = "0,1,2,3,8\n".parse().unwrap();
        assert_eq!(set.to_string(), "0-3,8");
        assert!("".parse::<IdSet>().unwrap().is_empty());
        for bad in ["3-1", "a", "1-", "-1", "99999"] {
            assert!(bad.parse::<IdSet>().is_err(), "{bad}");
        }
        assert_eq!("8:16".parse::<DevId>(), Ok(DevId(8, 16)));
        assert!("sda".parse::<DevId>().is_err());
    }

    proptest! {
        #[test]
        fn a_list_survives_printing(ids in proptest::collection::btree_set(0u32..300, 0..40)) {
            let set = IdSet(ids);
            prop_assert_eq!(set.to_string().parse::<IdSet>().unwrap(), set);
        }
    }
}
