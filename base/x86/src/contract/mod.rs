//! CPU contracts: what CPUID, the MSRs and the TSC look like to a guest, by name.
