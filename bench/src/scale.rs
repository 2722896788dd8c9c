//! How thoroughly.

/// How long a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    /// Everything once, as small as it goes: whether it works. Its numbers mean nothing.
    Smoke,
    /// Minutes.
    Quick,
    /// As long as it takes.
    Full,
}

impl Scale {
    /// Of three values the one for this.
    pub fn of<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// Its name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}
