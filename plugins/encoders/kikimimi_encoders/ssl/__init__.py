"""wav2vec 2.0 and its kin, which learned speech from unlabelled waveforms."""
