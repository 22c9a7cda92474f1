//! Conversions between the v1 and v2 scales, and their inverses.

/// `cpu.shares` (2..=262144, default 1024) to `cpu.weight` (1..=10000, default 100), keeping ratios.
pub fn shares_to_weight(shares: i64) -> i64 {
    div_round(shares * 100, 1024).clamp(1, 10_000)
}

/// `cpu.weight` to `cpu.shares`, keeping ratios.
pub fn weight_to_shares(weight: i64) -> i64 {
    div_round(weight * 1024, 100).clamp(2, 262_144)
}

/// The curve that container runtimes (runc, crun, youki) use since 2025: it maps range to range
/// and default to default, but does not keep ratios.
pub fn shares_to_weight_runc(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as i64).clamp(1, 10_000)
}

/// The smallest shares that [`shares_to_weight_runc`] turns into `weight`, or into the next weight above.
pub fn weight_to_shares_runc(weight: i64) -> i64 {
    let (mut low, mut high) = (2, 262_144);
    while low < high {
        let middle = (low + high) / 2;
        if shares_to_weight_runc(middle) >= weight {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The weight of a nice level (kernel/sched/core.c, sched_prio_to_weight), which is what cpu.shares count in.
pub(super) fn nice_to_shares(nice: i64) -> i64 {
    const WEIGHTS: [i64; 40] = [
        88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501,
        1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
    ];
    WEIGHTS[usize::try_from(nice.clamp(-20, 19) + 20).unwrap_or(20)]
}

/// `blkio.weight` (10..=1000, default 500) to `io.weight` (1..=10000, default 100), as systemd does.
pub fn blkio_to_io_weight(weight: i64) -> i64 {
    div_round(weight, 5).clamp(1, 10_000)
}

/// `io.weight` to `blkio.weight`, the inverse as far as the narrower range allows.
pub fn io_to_blkio_weight(weight: i64) -> i64 {
    (weight * 5).clamp(10, 1000)
}

fn div_round(numerator: i64, denominator: i64) -> i64 {
    (numerator + denominator / 2) / denominator
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn defaults_meet_defaults() {
        assert_eq!((shares_to_weight(1024), weight_to_shares(100)), (100, 1024));
        assert_eq!((shares_to_weight_runc(1024), weight_to_shares_runc(1)), (100, 2));
        assert_eq!((blkio_to_io_weight(500), io_to_blkio_weight(100)), (100, 500));
    }

    #[test]
    fn every_weight_survives_the_way_to_shares_and_back() {
        for weight in 1..=10_000 {
            assert_eq!(shares_to_weight(weight_to_shares(weight)), weight);
        }
        for weight in 2..=200 {
            assert_eq!(blkio_to_io_weight(io_to_blkio_weight(weight)), weight);
        }
    }

    proptest! {
        #[test]
        fn conversions_are_monotone_and_in_range(a in 2i64..=262_144, b in 2i64..=262_144) {
            let (a, b) = (a.min(b), a.max(b));
            for f in [shares_to_weight as fn(i64) -> i64, shares_to_weight_runc] {
                prop_assert!(f(a) <= f(b) && (1..=10_000).contains(&f(a)));
            }
            let (a, b) = (1 + a % 10_000, 1 + b % 10_000);
            let (a, b) = (a.min(b), a.max(b));
            for f in [weight_to_shares as fn(i64) -> i64, weight_to_shares_runc] {
                prop_assert!(f(a) <= f(b) && (2..=262_144).contains(&f(a)));
            }
        }

        #[test]
        fn shares_come_back_within_the_step_of_the_coarser_scale(shares in 11i64..=102_400) {
            let back = weight_to_shares(shares_to_weight(shares));
            prop_assert!((back - shares).abs() <= 6, "{} -> {}", shares, back);
        }

        #[test]
        fn the_runc_inverse_is_the_smallest_preimage(weight in 1i64..=10_000) {
            let shares = weight_to_shares_runc(weight);
            prop_assert!(shares_to_weight_runc(shares) >= weight);
            prop_assert!(shares == 2 || shares_to_weight_runc(shares - 1) < weight);
        }
    }
}
