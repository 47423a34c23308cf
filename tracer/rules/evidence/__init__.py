"""The evidence set: one rule a module. They use all that an exact trace offers; the textbook set uses what was published."""
