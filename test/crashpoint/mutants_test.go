package crashpoint

const mutantEnv = "SHMD_CRASHPOINT_MUTANT"
