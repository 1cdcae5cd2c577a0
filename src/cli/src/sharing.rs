//! The options that say how a slice shares GPUs with others: of `vcuda run`, and of `vcuda set`.

use clap::Args;
use vcuda_core::limits::Overrides;

/// How a slice shares GPUs with others.
#[derive(Args)]
pub struct SharingOptions {
    /// Have the GPU time limit be the least and not also the most, so that what others leave is used, too; =false: not,
    /// =0=true,1=false: by GPU
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    elastic: Option<String>,
    /// By what GPU time that others leave is divided: 1 to 10000 for every GPU, or 0=30,GPU-8932f937=60 for single ones
    /// [default: the GPU time limit in percent]
    #[arg(long, value_name = "WEIGHT")]
    weight: Option<String>,
    /// Who goes first where several want a GPU: normal or high for every GPU, or 0=high,GPU-8932f937=normal for single
    /// ones
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
}

impl SharingOptions {
    /// Whether any is given.
    pub fn is_given(&self) -> bool {
        self.elastic.is_some() || self.weight.is_some() || self.priority.is_some()
    }

    /// `others` and these.
    pub fn beside<'a>(&'a self, others: Overrides<'a>) -> Overrides<'a> {
        Overrides {
            elastic: self.elastic.as_deref().map(|text| ("--elastic", text)),
            weight: self.weight.as_deref().map(|text| ("--weight", text)),
            priority: self.priority.as_deref().map(|text| ("--priority", text)),
            ..others
        }
    }
}
