"""One job, one adapter: SFT and DPO on warm workers, sharded or merged, with checkpoints and admission."""
