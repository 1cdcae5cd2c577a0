//! Behaviour of the preloaded library, one module per behaviour. See `vcuda_tests` for how tests are made.

mod quiet;
