//! Small vocabularies of the kernel: id lists (`0-3,8`) and device numbers (`8:0`).

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
